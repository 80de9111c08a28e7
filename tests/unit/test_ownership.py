import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ods.databases.inspection import Database, published_last
from ods.databases.ownership import LeftName, Owner, published_at, with_left

OWNER = Owner("default", 42, "CreateInstanceJob-42-1", "6b1f0f6e-1111-4222-8333-444444444444")
WRITTEN = {
    "tenant": "default",
    "odsInstanceId": 42,
    "job": "CreateInstanceJob-42-1",
    "mark": "6b1f0f6e-1111-4222-8333-444444444444",
}
"""The comment as version 1 wrote it."""
OURS, OTHERS = "aaaaaaaa-1111-4222-8333-444444444444", "bbbbbbbb-1111-4222-8333-444444444444"
owners = st.builds(
    Owner,
    tenant=st.text(),
    ods_instance_id=st.integers(),
    job_id=st.text(),
    mark=st.uuids().map(str),
    number=st.integers(0, 999_999_999),
    attempt=st.integers(0, 999_999_999),
    installation=st.none() | st.uuids().map(str),
    template_generation=st.none() | st.integers(0, 2**31 - 1),
    request=st.none() | st.uuids().map(str),
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
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*WRITTEN, "left", "other"]), inner),
)


@pytest.mark.parametrize("count", [-1, 10**9, 10**12])
@pytest.mark.parametrize("field", ["number", "attempt"])
def test_comment_is_not_ours_when_the_registry_cannot_have_its_numbers(field: str, count: int) -> None:
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
    return Database(name, owner, at, owner.mark, **kinds, open=not trash, template=False, invalid=False)  # type: ignore[arg-type]


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
    owner = replace(OWNER, number=1, attempt=3, installation=OURS, template_generation=2)
    written = json.loads(owner.comment)
    at = published_at(owner.comment)
    assert at is not None
    assert datetime.now(UTC) - at < timedelta(minutes=1)
    assert written.pop("publishedAt")
    assert written == WRITTEN | {
        "version": 2,
        "installation": OURS,
        "number": 1,
        "attempt": 3,
        "templateGeneration": 2,
    }


@pytest.mark.parametrize(("request_of_comment", "is_unknown"), [(None, False), (OURS, False), (OTHERS, True)])
def test_publication_is_unknown_when_another_request_had_its_number(
    request_of_comment: str | None, *, is_unknown: bool
) -> None:
    known = replace(OWNER, number=3, attempt=1).knowing([OURS])
    published = replace(OWNER, number=2, attempt=1, request=request_of_comment)
    assert published.is_unknown_to(known) is is_unknown
    assert replace(published, number=3, attempt=2).is_unknown_to(known)


def test_database_is_put_back_when_its_comment_says_so() -> None:
    owner = replace(OWNER, trashed_name="EdFi_Ods_A_Minimal", put_back=True)
    assert Owner.read(owner.comment) == owner


def test_comment_of_version_1_is_understood_when_it_is_read() -> None:
    owner = Owner.read(json.dumps(WRITTEN))
    assert owner == replace(OWNER, number=1, attempt=0, installation=None)
    assert OWNER.owns(json.dumps(WRITTEN))
    assert published_at(json.dumps(WRITTEN)) is None


@pytest.mark.parametrize("mark", [OURS.replace("a", "0"), OURS.replace("a", "f")])
def test_database_is_not_ours_when_it_has_another_mark(mark: str) -> None:
    owner = replace(OWNER, mark=OURS)
    assert not owner.owns(replace(owner, mark=mark).comment)


@pytest.mark.parametrize(("other", "owns"), [(OURS, True), (None, True), (OTHERS, False)])
def test_database_of_another_installation_is_not_ours_when_a_copied_registry_has_its_mark(
    other: str | None, *, owns: bool
) -> None:
    ours = replace(OWNER, installation=OURS)
    assert ours.owns(replace(OWNER, installation=other).comment) is owns


def test_publication_grows_when_jobs_and_attempts_follow_each_other() -> None:
    order = [(1, 1), (1, 2), (2, 1), (3, 0)]
    found = [replace(OWNER, number=number, attempt=attempt).publication for number, attempt in order]
    assert found == sorted(found)


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
    assert name == f"ods_staging_{mark.hex}"
    assert len(name) <= 63


def test_mark_must_be_a_uuid_when_a_staging_name_is_made() -> None:
    with pytest.raises(ValueError, match="UUID"):
        _ = replace(OWNER, mark="42").staging_name
