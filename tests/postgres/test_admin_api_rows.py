"""Rows that an Admin API adds while this service runs: each is adopted by a sweep, or says why not."""

import pytest

from ods.model.operations import JobStatus, Template
from ods.registry.instances.admin_api import AdminApiRows
from ods.registry.instances.reservations import database_taken
from tests.postgres.ed_fi_admin import STATE_OF_WORD, EdFiAdmin
from tests.postgres.instance_states import bring_to, stores

WORKING = ["CreateInProgress", "DeleteInProgress"]
JOBS = {
    "Pending": JobStatus.PENDING,
    "Pending_Delete": JobStatus.PENDING,
    "Completed": JobStatus.COMPLETED,
    "Error": JobStatus.ERROR,
    "Delete_Failed": JobStatus.ERROR,
}
FACTS = """
SELECT jobnumber, operation, databasename, instance.odsinstanceid, errormessage, state, audit.title,
    (SELECT status FROM adminapi.jobstatuses WHERE dbinstanceid = instance.id) AS job
FROM adminapi.managed_instances AS instance LEFT JOIN adminapi.audit AS audit ON instanceid = instance.id
WHERE instance.id = $1
"""


def rows_of(ed_fi_admin: EdFiAdmin) -> AdminApiRows:
    return AdminApiRows(ed_fi_admin.engine, "default", list(Template))


@pytest.mark.parametrize("number", [None, 4711])
@pytest.mark.parametrize("word", sorted({*STATE_OF_WORD} - {*WORKING, "Deleted"}))
async def test_row_gets_a_job_when_an_admin_api_has_added_it(
    ed_fi_admin: EdFiAdmin, word: str, number: int | None
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.rename_script()
    instances, job_store = stores(ed_fi_admin.engine)
    running = await bring_to(instances, job_store, "InProgress", "Ours")
    added = await ed_fi_admin.add("Theirs", word, number)
    await rows_of(ed_fi_admin).adopt()
    row = dict(await ed_fi_admin.sql.fetchrow(FACTS, added) or {})
    state = STATE_OF_WORD[word]
    assert row.pop("odsinstanceid") == number or number is None
    assert row == {
        "jobnumber": 1,
        "operation": "Delete" if "Delete" in state else "Create",
        "databasename": "EdFi_Ods_Theirs_Minimal",
        "errormessage": None,
        "state": state,
        "title": "Adopted from an Admin API: Theirs",
        "job": JOBS[state],
    }
    waiting = [job.instance_id for job in await job_store.waiting_jobs(0, 10)]
    assert waiting == ([added] if JOBS[state] is JobStatus.PENDING else [])
    assert [job.instance_id for job in await job_store.running_jobs(0, 10)] == [running.instance_id]


@pytest.mark.parametrize("word", WORKING)
async def test_row_is_left_when_an_admin_api_works_on_it(ed_fi_admin: EdFiAdmin, word: str) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", word, 4711)
    await rows_of(ed_fi_admin).adopt()
    row = await ed_fi_admin.sql.fetchrow(FACTS, added)
    assert row is not None
    assert (row["jobnumber"], row["job"]) == (0, None)


@pytest.mark.parametrize("word", ["PendingCreate", "PendingDelete"])
async def test_row_is_left_when_an_admin_api_has_added_it_just_now(ed_fi_admin: EdFiAdmin, word: str) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", word, 4711)
    just_now = "UPDATE adminapi.dbinstances SET lastmodifieddate = now() AT TIME ZONE 'utc'"
    await ed_fi_admin.sql.execute(just_now)
    await rows_of(ed_fi_admin).adopt()
    row = await ed_fi_admin.sql.fetchrow(FACTS, added)
    assert row is not None
    assert row["jobnumber"] == 0


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ("databasetemplate = 'Other'", "There is no template 'Other'."),
        (f"name = '{'x' * 60}', databasename = NULL", "The name of its database would exceed 63 bytes."),
        (
            "databasename = NULL, name = 'O_urs', odsinstanceid = NULL",
            f"{database_taken('EdFi_Ods_O_urs_Minimal')}",
        ),
    ],
)
async def test_row_says_what_stands_against_its_adoption_when_something_does(
    ed_fi_admin: EdFiAdmin, change: str, obstacle: str
) -> None:
    await ed_fi_admin.install()
    instances, _ = stores(ed_fi_admin.engine)
    await instances.reserve("O urs", Template.MINIMAL)
    added = await ed_fi_admin.add("Theirs", "PendingCreate", 4711)
    await ed_fi_admin.sql.execute(f"UPDATE adminapi.dbinstances SET {change} WHERE id = {added}")  # noqa: S608 - constants
    await rows_of(ed_fi_admin).adopt()
    row = await ed_fi_admin.sql.fetchrow(FACTS, added)
    assert row is not None
    expected = f"This service has not adopted the instance, which an Admin API has added. {obstacle}"
    assert (row["jobnumber"], row["errormessage"], row["job"]) == (0, expected, None)
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET name = 'Free', databasetemplate = 'Minimal' WHERE id = $1", added
    )
    await rows_of(ed_fi_admin).adopt()
    row = await ed_fi_admin.sql.fetchrow(FACTS, added)
    assert row is not None
    assert (row["jobnumber"], row["errormessage"], row["job"]) == (1, None, "Pending")
