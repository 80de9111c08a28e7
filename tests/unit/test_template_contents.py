"""What the names of scripts in the deployment journal tell, and comments on templates."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.databases.templates.marks import (
    Contents,
    TemplateMark,
    TemplateState,
    contents_of,
    generation_in,
    is_private,
    new_private_name,
)
from ods.databases.templates.spares import Fingerprint, SpareMark

INSTALLATION = "6b6f4f3e-5f0a-4a53-9d0a-0f4f2c9d1e11"
CONTENTS = Contents(1006, "6.1.0", {"TPDM": "1.1.0"})
MARK = TemplateMark(
    INSTALLATION,
    "Minimal",
    TemplateState.PUBLISHED,
    generation=3,
    loaded_at=datetime(2026, 11, 26, tzinfo=UTC),
    contents=CONTENTS,
)


def test_newest_versions_are_told_when_the_journal_has_several() -> None:
    scripts = [
        "EdFi.Ods.Standard.Standard.5.2.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql",
        "EdFi.Ods.Standard.Standard.5.10.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql",
        "Extensions.TPDM.1.1.0.Standard.5.2.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql",
        "Extensions.TPDM.1.0.9.Standard.5.2.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql",
        "Extensions.Sample.1.0.0.Standard.6.1.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql",
        "Artifacts.PgSql.Structure.Ods.0010-Own.sql",
    ]
    found = contents_of(7, scripts)
    assert found == Contents(7, "5.10.0", {"TPDM": "1.1.0", "Sample": "1.0.0"})


def test_versions_are_unknown_when_the_journal_tells_none() -> None:
    assert contents_of(7, ["0010-Own.sql"]) == Contents(7, None, {})


@pytest.mark.parametrize("mark", [MARK, TemplateMark(INSTALLATION, "A", TemplateState.LOADING)])
def test_mark_is_read_back_when_it_was_written(mark: TemplateMark) -> None:
    assert TemplateMark.read(mark.comment) == mark


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nothing_is_read_when_a_comment_is_anything(comment: str) -> None:
    assert TemplateMark.read(comment) is None


@pytest.mark.parametrize("name", [*json.loads(MARK.comment)])
def test_nothing_is_read_when_a_comment_lacks_a_member(name: str) -> None:
    fields = json.loads(MARK.comment)
    del fields[name]
    assert TemplateMark.read(json.dumps(fields)) is None


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, True, "1", None, [1]])
def test_generation_is_not_known_when_a_registry_could_not_store_it(value: object) -> None:
    assert generation_in(value) is None


@pytest.mark.parametrize("number", ["Infinity", "1e999", "NaN"])
def test_nothing_is_read_when_a_number_in_a_comment_has_no_end(number: str) -> None:
    assert TemplateMark.read(MARK.comment.replace(": 3", f": {number}")) is None
    mark = SpareMark(INSTALLATION, "Minimal", Fingerprint(12345, 2), 5)
    assert SpareMark.read(mark.comment.replace("12345", number)) is None


def test_script_names_no_version_when_its_number_is_longer_than_any() -> None:
    script = f"Standard.{'9' * 5000}.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql"
    assert contents_of(7, [script]) == Contents(7, None, {})


def test_private_name_is_recognised_when_it_was_made() -> None:
    assert is_private(new_private_name(INSTALLATION))
    assert not is_private("ods_template_of_the_operator")
