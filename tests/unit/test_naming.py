from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ods.model.operations import Template
from ods.registry.instances.naming import (
    MAX_NAME_LENGTH,
    database_name,
    instance_named,
    max_name_length,
    name_errors,
    snapshot_name,
)

EMPTY = "'Name' must not be empty."
TOO_LONG = "'Name' must be 46 characters or fewer. You entered 47 characters."
CHARACTERS = "'Name' must contain only letters, numbers, spaces and underscores."

accepted_names = st.one_of(
    st.from_regex(rf"[A-Za-z0-9 _]{{1,{MAX_NAME_LENGTH}}}", fullmatch=True),
    st.lists(st.sampled_from(["EdFi_Ods", "edfi_ODS", "EdFi Ods", "_", " ", "X", "7"]), max_size=10).map(
        "".join
    ),
).filter(lambda name: name.strip() and len(name) <= MAX_NAME_LENGTH)
templates = st.sampled_from(Template)


def name_by_the_rule(name: str, template: str) -> str:
    """The rule of the Admin API, told step by step."""
    stem = name.replace(" ", "_").strip("_")
    while stem.lower() == "edfi_ods" or stem.lower().startswith("edfi_ods_"):
        stem = stem[len("EdFi_Ods") :].lstrip("_")
    return f"EdFi_Ods_{stem}_{template}" if stem else f"EdFi_Ods_{template}"


@pytest.mark.parametrize(
    ("name", "template", "database"),
    [
        ("My DB Instance", Template.MINIMAL, "EdFi_Ods_My_DB_Instance_Minimal"),
        ("EdFi_Ods_Foo", Template.MINIMAL, "EdFi_Ods_Foo_Minimal"),
        ("EdFi_OdsX", Template.MINIMAL, "EdFi_Ods_EdFi_OdsX_Minimal"),
        ("___", Template.MINIMAL, "EdFi_Ods_Minimal"),
        ("Foo", Template.SAMPLE, "EdFi_Ods_Foo_Sample"),
        ("  Foo _", Template.SAMPLE, "EdFi_Ods_Foo_Sample"),
        ("edfi ods EDFI_ODS__EdFi_Ods_2025", Template.SAMPLE, "EdFi_Ods_2025_Sample"),
        ("EdFi_Ods", Template.SAMPLE, "EdFi_Ods_Sample"),
        ("Foo_EdFi_Ods_Bar", Template.SAMPLE, "EdFi_Ods_Foo_EdFi_Ods_Bar_Sample"),
    ],
)
def test_database_is_named_by_the_rule_when_the_name_is_an_example(
    name: str, template: Template, database: str
) -> None:
    assert name_errors(name) == []
    assert database_name(name, template) == database


@given(accepted_names, templates)
def test_database_is_named_by_the_rule_when_the_name_is_accepted(name: str, template: Template) -> None:
    assert database_name(name, template) == name_by_the_rule(name, template)


@given(accepted_names, templates)
def test_database_name_fits_postgresql_when_the_name_is_accepted(name: str, template: Template) -> None:
    assert name_errors(name) == []
    database = database_name(name, template)
    assert database.startswith("EdFi_Ods_")
    assert database.endswith(f"_{template}")
    assert len(database.encode()) <= 63


@pytest.mark.parametrize("template", Template)
def test_name_is_as_long_as_postgresql_allows_when_it_is_longest(template: Template) -> None:
    lengths = {len(database_name("x" * MAX_NAME_LENGTH, each)) for each in Template}
    assert max(lengths) == 63
    assert name_errors("x" * (MAX_NAME_LENGTH + 1)) == [TOO_LONG]


@given(st.text(max_size=MAX_NAME_LENGTH), st.characters(), st.text(max_size=5))
def test_name_is_refused_when_it_holds_a_character_that_is_not_allowed(
    before: str, character: str, after: str
) -> None:
    assume(not (character.isascii() and (character.isalnum() or character in " _")))
    assert CHARACTERS in name_errors(before + character + after)


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("", [EMPTY]),
        ("   ", [EMPTY]),
        ("x" * 47, [TOO_LONG]),
        (" " + "x" * 45 + " ", [TOO_LONG]),
        ("a-b", [CHARACTERS]),
        ("ab\n", [CHARACTERS]),
        ("é", [CHARACTERS]),
        ("٣", [CHARACTERS]),
        (" " * 47, [EMPTY, TOO_LONG]),
        ("\t", [EMPTY, CHARACTERS]),
        ("é" * 47, [TOO_LONG, CHARACTERS]),
        ("\n" * 47, [EMPTY, TOO_LONG, CHARACTERS]),
    ],
)
def test_all_faults_are_reported_together_when_a_name_has_them(name: str, faults: list[str]) -> None:
    assert name_errors(name) == faults


@pytest.mark.parametrize("template", ["A", "Minimal", "Year2027", "x" * 20])
def test_longest_name_fits_postgresql_when_the_template_has_another_name(template: str) -> None:
    longest = "x" * max_name_length(template)
    assert name_errors(longest, template) == []
    assert len(database_name(longest, template)) <= 63
    assert name_errors(f"{longest}x", template) == [
        f"'Name' must be {len(longest)} characters or fewer. You entered {len(longest) + 1} characters."
    ]


def test_instance_is_read_from_the_name_of_its_database_when_its_template_is_a_further_one() -> None:
    assert instance_named("EdFi_Ods_Grand_Bend_Year2027", ["Minimal", "Year2027"]) == (
        "Grand_Bend",
        "Year2027",
    )
    assert instance_named("EdFi_Ods_Grand_Bend_Year2027", ["Minimal", "Sample"]) is None


def test_snapshot_has_the_name_of_the_database_and_the_time() -> None:
    at = datetime(2026, 11, 26, 7, 45, tzinfo=UTC)
    assert snapshot_name("EdFi_Ods_A_Minimal", at) == "EdFi_Ods_A_Minimal_Snapshot_20261126T074500"


def test_name_of_a_snapshot_is_shortened_to_what_postgresql_keeps_when_it_is_too_long() -> None:
    at = datetime(2026, 11, 26, 7, 45, tzinfo=UTC)
    longest = [f"EdFi_Ods_{'x' * 45}{last}_Minimal" for last in "ab"]
    names = [snapshot_name(database, at) for database in longest]
    assert [len(name) for name in names] == [63, 63]
    assert names[0] != names[1]
    assert all(name.endswith("_Snapshot_20261126T074500") for name in names)
    assert len(snapshot_name("ü" * 31, at).encode()) <= 63
