import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databases.ownership import Owner

OWNER = Owner("default", 42, "CreateInstanceJob-42-1", "6b1f0f6e-1111-4222-8333-444444444444")
WRITTEN = {
    "tenant": "default",
    "odsInstanceId": 42,
    "job": "CreateInstanceJob-42-1",
    "mark": "6b1f0f6e-1111-4222-8333-444444444444",
}
owners = st.builds(Owner, st.text(), st.integers(), st.text(), st.uuids().map(str))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*WRITTEN, "other"]), inner),
)


@given(owners)
def test_owner_is_read_back_when_the_comment_was_written(owner: Owner) -> None:
    assert Owner.read(owner.comment) == owner
    assert owner.owns(owner.comment)


def test_comment_names_tenant_instance_job_and_mark_when_it_is_written() -> None:
    assert json.loads(OWNER.comment) == WRITTEN


def test_database_stays_ours_when_a_later_job_of_the_instance_asks() -> None:
    assert replace(OWNER, job_id="DeleteInstanceJob-42-2").owns(OWNER.comment)


def test_database_is_not_ours_when_it_carries_another_mark() -> None:
    assert not replace(OWNER, mark=str(uuid.uuid4())).owns(OWNER.comment)


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "",
        "somebody's database",
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
