import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.databases.constants import program_name
from ods.databases.inspection.listing import Database, published_last
from ods.databases.ownership import LeftName, Owner, published_at, with_left
from ods.model.revisions import KnownRevisions, Revision, RevisionState, revision_by

OURS, OTHERS = "aaaaaaaa-1111-4222-8333-444444444444", "bbbbbbbb-1111-4222-8333-444444444444"
OWNER = Owner(
    *("default", 42, "CreateInstanceJob-42-1", "6b1f0f6e-1111-4222-8333-444444444444", OURS, 1),
    name="A",
    template="Minimal",
    database_id="dddddddd-1111-4222-8333-444444444444",
    revision="cccccccc-1111-4222-8333-444444444444",
)
TIME = "2026-11-26T08:00:00+00:00"
WRITTEN = {
    "version": 1,
    "tenant": "default",
    "odsInstanceId": 42,
    "job": "CreateInstanceJob-42-1",
    "mark": "6b1f0f6e-1111-4222-8333-444444444444",
    "installation": OURS,
    "number": 1,
    "database": "dddddddd-1111-4222-8333-444444444444",
    "revision": "cccccccc-1111-4222-8333-444444444444",
    "role": "current",
    "instance": "A",
    "template": "Minimal",
    "templateGeneration": None,
    "publishedAt": TIME,
}
"""What each comment of ours has."""
SOMETIMES = {
    "role": "retained",
    "trashedAt": TIME,
    "name": "EdFi_Ods_A_Minimal",
    "left": {"EdFi_Ods_B_Minimal": TIME},
}
"""What some have as well."""
owners = st.builds(
    Owner,
    tenant=st.text(),
    ods_instance_id=st.integers(0, 2**31 - 1),
    job_id=st.text(),
    mark=st.uuids().map(str),
    number=st.integers(0, 999_999_999),
    name=st.text(max_size=100),
    template=st.text(max_size=100),
    database_id=st.uuids().map(str),
    installation=st.uuids().map(str),
    template_generation=st.none() | st.integers(0, 2**31 - 1),
    revision=st.none() | st.uuids().map(str),
    is_protected=st.booleans(),
    left=st.lists(
        st.builds(
            LeftName,
            st.text(),
            st.none() | st.datetimes(datetime(2026, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis adds the zone
        ),
        unique_by=lambda one: one.name,
    ).map(tuple),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*WRITTEN, *SOMETIMES, "other"]), inner),
)


@pytest.mark.parametrize(
    ("field", "count"), [("number", -1), ("number", 10**9), ("odsInstanceId", -1), ("odsInstanceId", 2**31)]
)
def test_comment_is_not_ours_when_the_registry_cannot_have_its_number(field: str, count: int) -> None:
    assert Owner.read(json.dumps(WRITTEN | {field: 5})) is not None
    assert Owner.read(json.dumps(WRITTEN | {field: count})) is None


@given(owners)
def test_owner_is_read_back_when_the_comment_was_written(owner: Owner) -> None:
    assert Owner.read(owner.comment) == owner
    assert owner.owns(owner.comment)


def _database(name: str, number: int, hour: int | None, *, trash: bool = True) -> Database:
    at = None if hour is None else datetime(2026, 1, 1, hour, tzinfo=UTC)
    owner = replace(OWNER, number=number)
    kinds = {"staging": False, "spare": False, "trash": trash, "snapshot": None, "reset": False}
    state = {"open": not trash, "template": False, "invalid": False, "manageable": True}
    return Database(name, owner, at, owner.mark, **kinds, **state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("databases", "last"),
    [
        ([], None),
        ([("first", 1, 3), ("second", 2, 4)], "second"),
        ([("second", 2, None), ("first", 1, 3)], "second"),
        ([("first", 1, 5), ("second", 2, 4)], None),  # the number was given again
        ([("one", 2, 4), ("other", 2, 5)], None),
    ],
)
def test_database_is_the_last_when_number_and_time_agree(
    databases: list[tuple[str, int, int | None]], last: str | None
) -> None:
    found = published_last([_database(*one) for one in databases])
    assert (found and found.name) == last


def test_open_database_is_the_last_when_a_reset_has_exchanged_two() -> None:
    both = [_database("replaced", 2, 5), _database("fresh", 2, 4, trash=False)]
    assert published_last(both) == both[1]
    assert published_last([*both, _database("copy", 2, 4, trash=False)]) is None


@given(owners, owners)
def test_the_rest_of_a_comment_stays_when_names_that_were_left_are_written(
    owner: Owner, other: Owner
) -> None:
    assert Owner.read(with_left(owner.comment, other.left)) == replace(owner, left=other.left)


def test_comment_tells_all_that_is_needed_to_know_the_database_again_when_it_is_written() -> None:
    comment = replace(OWNER, template_generation=2).comment
    at = published_at(comment)
    assert at is not None
    assert datetime.now(UTC) - at < timedelta(minutes=1)
    written = json.loads(comment)
    assert written == WRITTEN | {"templateGeneration": 2, "publishedAt": written["publishedAt"]}


def test_revision_is_unknown_when_no_job_of_the_registry_gives_it_that_database() -> None:
    request = str(uuid.uuid4())
    given = revision_by(request, 2, OWNER.database_id)
    revisions = (
        Revision(given, OWNER.database_id, RevisionState.INTENDED),
        Revision(OTHERS, OWNER.database_id, RevisionState.VOID),
    )
    known = OWNER.knowing(KnownRevisions(revisions), request, 2)
    assert known.revision == given
    assert replace(OWNER, revision=given).agrees_with(known)
    past = replace(OWNER, revision=OTHERS)
    assert (past.is_unknown_to(known), past.agrees_with(known)) == (False, False)
    assert OWNER.is_unknown_to(known)
    assert not OWNER.agrees_with(known)
    assert replace(OWNER, revision=given, database_id=OTHERS).is_unknown_to(known)
    assert replace(OWNER, revision=None).is_unknown_to(known)


def test_revision_is_another_when_request_attempt_or_database_is() -> None:
    assert revision_by(OURS, 1, OTHERS) == revision_by(OURS, 1, OTHERS)
    of = product((OURS, OTHERS), (1, 2), (OURS, OTHERS))
    assert len({revision_by(*one) for one in of}) == 8


def test_no_comment_of_the_trash_is_written_when_no_revision_is_known() -> None:
    with pytest.raises(ValueError, match="revision"):
        _ = replace(OWNER, revision=None, trashed_name="EdFi_Ods_A_Minimal").comment
    assert Owner.read(replace(OWNER, revision=None).comment) == replace(OWNER, revision=None)


def test_database_is_put_back_when_its_comment_says_so() -> None:
    owner = replace(OWNER, trashed_name="EdFi_Ods_A_Minimal", put_back=True)
    assert Owner.read(owner.comment) == owner


def test_comment_is_ours_when_it_has_all_that_ours_have() -> None:
    assert Owner.read(json.dumps(WRITTEN)) == OWNER
    assert Owner.read(json.dumps(WRITTEN | SOMETIMES)) == replace(
        OWNER,
        trashed_name="EdFi_Ods_A_Minimal",
        left=(LeftName("EdFi_Ods_B_Minimal", datetime.fromisoformat(TIME)),),
    )


@pytest.mark.parametrize("missing", [*WRITTEN, "name"])
def test_comment_is_not_ours_when_it_lacks_what_ours_have(missing: str) -> None:
    written = WRITTEN | SOMETIMES
    del written[missing]
    assert Owner.read(json.dumps(written)) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 0},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"tenant": None},
        {"odsInstanceId": "42"},
        {"job": 1},
        {"mark": "42"},
        {"installation": None},
        {"number": "1"},
        {"number": 1.0},
        {"number": True},
        {"role": "current"},
        {"role": "staging"},
        {"role": None},
        {"templateGeneration": -1},
        {"templateGeneration": "2"},
        {"publishedAt": "today"},
        {"publishedAt": TIME.removesuffix("+00:00")},
        {"database": None},
        {"revision": "a revision"},
        {"revision": None},
        {"trashedAt": None},
        {"name": None},
        {"protected": False},
        {"left": ["EdFi_Ods_B_Minimal"]},
        {"left": {"EdFi_Ods_B_Minimal": "today"}},
    ],
    ids=str,
)
def test_comment_is_not_ours_when_one_of_its_fields_is_not_as_ours(changed: dict[str, Any]) -> None:
    comment = json.dumps(WRITTEN | SOMETIMES | changed)
    assert Owner.read(comment) is None
    assert not OWNER.owns(comment)


@pytest.mark.parametrize("mark", [OURS.replace("a", "0"), OURS.replace("a", "f")])
def test_database_is_not_ours_when_it_has_another_mark(mark: str) -> None:
    owner = replace(OWNER, mark=OURS)
    assert not owner.owns(replace(owner, mark=mark).comment)


@pytest.mark.parametrize(("other", "owns"), [(OURS, True), (OTHERS, False)])
def test_database_of_another_installation_is_not_ours_when_a_copied_registry_has_its_mark(
    other: str, *, owns: bool
) -> None:
    ours = replace(OWNER, installation=OURS)
    assert ours.owns(replace(OWNER, installation=other).comment) is owns


def test_database_stays_ours_when_a_later_job_of_the_instance_asks() -> None:
    assert replace(OWNER, job_id="DeleteInstanceJob-42-2").owns(OWNER.comment)


def test_database_is_not_ours_when_it_carries_another_mark() -> None:
    assert not replace(OWNER, mark=str(uuid.uuid4())).owns(OWNER.comment)


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "",
        "a database",
        OWNER.mark,
        f'"{OWNER.mark}"',
        "null",
        "42",
        "[]",
        "{}",
        "{",
        OWNER.comment[:-1],
        OWNER.comment + "}",
        json.dumps([WRITTEN]),
        json.dumps(json.dumps(WRITTEN)),
        json.dumps({"mark": OWNER.mark}),
        json.dumps(WRITTEN | {"mark": None}),
        json.dumps(WRITTEN | {"mark": [OWNER.mark]}),
        json.dumps(WRITTEN | {"mark": ""}),
        json.dumps(WRITTEN | {"installation": [OURS]}),
        json.dumps(WRITTEN | {"number": "many"}),
        "[" * 100_000,
        '{"mark":' * 100_000,
    ],
)
def test_database_is_not_ours_when_its_comment_is_foreign_or_broken(comment: str | None) -> None:
    assert not OWNER.owns(comment)


@given(st.text() | json_values.map(json.dumps))
def test_database_is_not_ours_when_its_comment_is_anything(comment: str) -> None:
    assert not OWNER.owns(comment)


@given(st.uuids())
def test_staging_name_is_private_and_fits_when_an_instance_has_a_mark(mark: uuid.UUID) -> None:
    name = replace(OWNER, mark=str(mark)).staging_name
    assert name == f"ods_staging_{uuid.UUID(OWNER.installation).hex[:16]}_{mark.hex}"
    assert len(name) <= 63


def test_program_is_found_again_when_postgresql_has_cut_its_name() -> None:
    shown = program_name("pg_restore", OWNER.staging_name)
    assert len(shown) == 63 < len(f"pg_restore {OWNER.staging_name}")
    assert f"pg_restore {OWNER.staging_name}".startswith(shown)


def test_mark_must_be_a_uuid_when_a_staging_name_is_made() -> None:
    with pytest.raises(ValueError, match="UUID"):
        _ = replace(OWNER, mark="42").staging_name
