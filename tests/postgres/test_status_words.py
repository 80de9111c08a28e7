"""The status of an instance, in the words of this service and of an Admin API that shares the table."""

import asyncio
import json
import re
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from api.schemas.managed_status import ManagedStatus, managed_status
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import DROP_AT_ONCE, Way
from ods.model.operations import InstanceStatus, Operation
from ods.model.origins import CopyOrigin
from ods.registry.installation import InstallationStore
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.deletes import Delete
from ods.registry.instances.naming import trash_name
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.steps import JobFactory
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import DbInstance
from tests.postgres.ed_fi_admin import STATE_OF_WORD, EdFiAdmin
from tests.postgres.instance_states import CONNECTION_STRING, POLICY, STATES, bring_to, stores
from tests.postgres.legacy_schemas import ADMIN_API_INSTANCES
from tests.servers import session

pytestmark = pytest.mark.long

VIEW = f"adminapi.{DbInstance.__tablename__}"


WEEK = timedelta(days=7)


async def test_words_in_sql_are_those_of_the_api_when_a_status_is_translated(
    rows: asyncpg.Connection,
) -> None:
    for status in InstanceStatus:
        for operation in Operation:
            word = await rows.fetchval("SELECT adminapi.managed_status($1, $2)", status, operation)
            assert word == managed_status(status, operation)
    assert {
        word: await rows.fetchval("SELECT adminapi.state_of_status($1)", word) for word in ManagedStatus
    } == STATE_OF_WORD
    for status in InstanceStatus:
        assert await rows.fetchval("SELECT adminapi.state_of_status($1)", status) == status


@pytest.mark.parametrize("word", [*InstanceStatus, *ManagedStatus])
async def test_instance_follows_when_an_admin_api_writes_its_status(
    ed_fi_admin: EdFiAdmin, word: str
) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", "Pending", None)
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = $1", word)
    (instance,) = await InstanceQueries(ed_fi_admin.engine).instances(offset=0, limit=10)
    assert (instance.id, instance.status) == (added, STATE_OF_WORD.get(word, word))
    assert await ed_fi_admin.status("Theirs") == word
    if word in STATE_OF_WORD:
        assert managed_status(instance.status, instance.operation) == word.replace("Failed", "Error")


@pytest.mark.parametrize("word", ["InProgress", "CreateInProgress", "Completed", "Error"])
async def test_instance_waits_for_its_copy_when_an_admin_api_says_that_it_creates_it(
    ed_fi_admin: EdFiAdmin, word: str
) -> None:
    """The Admin API knows templates alone: it would have the client use an empty database."""
    await ed_fi_admin.install()
    instances, jobs = stores(ed_fi_admin.engine)
    source = await bring_to(instances, jobs, "Completed", "Source")
    copy = (await instances.reserve("Copy", source.template, origin=CopyOrigin(source.instance_id))).job
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET status = $1 WHERE id = $2", word, copy.instance_id
    )
    row = await InstanceQueries(ed_fi_admin.engine).instance(copy.instance_id)
    assert (row.status, row.operation) == ("Pending", "Create")
    assert (await jobs.begin(copy)).held


async def test_status_of_a_rename_stays_when_an_admin_api_writes_the_row_as_it_read_it(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.first_script()
    await ed_fi_admin.rename_script()
    await ed_fi_admin.install()
    job = await bring_to(*stores(ed_fi_admin.engine), "Pending_Rename", "Ours")
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.odsinstancemanages SET status = 'Created', lastrefreshed = now()"
    )
    instance = await InstanceQueries(ed_fi_admin.engine).instance(job.instance_id)
    assert (instance.status, instance.operation) == ("Pending", "Rename")


async def test_role_of_an_admin_api_needs_no_other_right_when_it_writes_its_table(
    ed_fi_admin: EdFiAdmin, postgres: EmbeddedPostgres, reader: str
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.sql.execute(
        "GRANT USAGE ON SCHEMA adminapi TO reader;"
        " GRANT SELECT, INSERT, UPDATE ON adminapi.dbinstances TO reader"
    )
    database = ed_fi_admin.dsn.rpartition("/")[2]
    try:
        async with session(f"{reader}/{database}") as theirs:
            await theirs.execute(
                "INSERT INTO adminapi.dbinstances (name, status, databasetemplate)"
                " VALUES ('Theirs', 'PendingCreate', 'Minimal')"
            )
            await theirs.execute("UPDATE adminapi.dbinstances SET status = 'Created'")
        state = await ed_fi_admin.sql.fetchrow(f"SELECT state, operation FROM {VIEW}")  # noqa: S608 - a constant
        assert tuple(state or ()) == ("Completed", "Create")
    finally:
        await ed_fi_admin.sql.execute(
            "REVOKE ALL ON SCHEMA adminapi FROM reader; REVOKE ALL ON adminapi.dbinstances FROM reader"
        )


# Rows that an Admin API adds while this service runs


async def test_row_is_left_to_an_admin_api_until_the_operator_adopts_it_when_it_adds_one(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    added = await ed_fi_admin.add("Theirs", "PendingCreate", None)
    running = await ed_fi_admin.add("Running", "DeleteInProgress", 7)
    instances, job_store = stores(ed_fi_admin.engine)
    assert await job_store.waiting_jobs(0, 10) == []
    assert await job_store.running_jobs(0, 10) == []
    for request in (instances.request_delete, instances.request_retry):
        with pytest.raises(RefusedError) as refused:
            await request(added)
        assert "ods migrate" in refused.value.next_step
    with pytest.raises(RefusedError):
        await instances.request_rename(added, "Another")

    await ed_fi_admin.migrate_again()
    (create,) = await job_store.waiting_jobs(0, 10)
    assert (create.instance_id, create.name, create.database) == (added, "Theirs", "EdFi_Ods_Theirs_Minimal")
    assert (await job_store.begin(create)).held
    assert await job_store.finish_create(create, CONNECTION_STRING)
    (delete,) = await job_store.running_jobs(0, 10)
    assert (delete.instance_id, delete.operation) == (running, Operation.DELETE)
    assert await InstanceQueries(ed_fi_admin.engine).job(create.job_id) is not None


async def test_row_is_adopted_when_an_instance_of_ours_has_a_template_that_the_settings_name(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine)
    ours = (await instances.reserve("Ours", "District")).job
    added = await ed_fi_admin.add("Theirs", "PendingCreate", None)
    await ed_fi_admin.migrate_again()
    assert [job.instance_id for job in await job_store.waiting_jobs(0, 10)] == [ours.instance_id, added]


@pytest.mark.parametrize("keeps", [True, False])
async def test_job_of_before_does_not_begin_when_its_row_was_changed(
    ed_fi_admin: EdFiAdmin, *, keeps: bool
) -> None:
    """What was to go to the trash is not dropped, nor the other way round, by the job of before."""
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=timedelta() if keeps else WEEK)
    before = await bring_to(instances, job_store, "Pending_Delete", "Ours")
    assert before.rules.to_trash is not keeps
    changed = "UPDATE adminapi.dbinstances SET arguments = arguments || jsonb_build_object('keep', $1::bool)"
    await ed_fi_admin.sql.execute(changed, keeps)
    assert not (await job_store.begin(before)).held
    (after,) = await job_store.waiting_jobs(0, 10)
    assert (after.request != before.request, after.rules.to_trash) == (True, keeps)
    assert (await job_store.begin(after)).held
    await ed_fi_admin.sql.execute(changed, not keeps)
    assert not await job_store.finish_delete(after)


async def test_job_of_a_later_release_is_left_to_that_when_others_wait(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    theirs = await bring_to(instances, job_store, "Pending_Delete", "Theirs")
    ours = await bring_to(instances, job_store, "Pending", "Ours")
    await ed_fi_admin.sql.execute("ALTER TABLE adminapi.dbinstances DROP CONSTRAINT ck_dbinstances_arguments")
    await ed_fi_admin.sql.execute(
        'UPDATE adminapi.dbinstances SET arguments = arguments || \'{"until": "2027"}\' WHERE id = $1',
        theirs.instance_id,
    )
    assert not (await job_store.begin(theirs)).held
    for limit in (1, 10):
        assert [job.instance_id for job in await job_store.waiting_jobs(0, limit)] == [ours.instance_id]


@pytest.mark.parametrize("word", ["PendingDelete", "Pending_Delete"])
@pytest.mark.parametrize("state", ["Completed", "Completed_Rename", "Error", "Error_Rename", "Delete_Failed"])
async def test_our_instance_is_deleted_when_an_admin_api_asks_for_it_in_the_table(
    ed_fi_admin: EdFiAdmin, state: str, word: str
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine)
    before = await bring_to(instances, job_store, state, "Ours")
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = $1", word)
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert (delete.instance_id, delete.operation) == (before.instance_id, Operation.DELETE)
    assert delete.request != before.request
    assert delete.number == before.number + 1
    begun = await job_store.begin(delete)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.finish_delete(delete)
    assert await ed_fi_admin.status(delete.name) == "Deleted"


async def test_each_instance_is_deleted_when_a_page_has_a_copy_of_the_registry_forget_them(
    ed_fi_admin: EdFiAdmin,
) -> None:
    """Whatever state it is in: a row of a delete that runs or has failed takes no such word from `status`."""
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    for state in STATES:
        await bring_to(instances, job_store, state, f"Ours {state}")
    page = (Path(__file__).parents[2] / "docs" / "operations" / "staging-copy.md").read_text()
    (statements,) = re.findall(r"<<'SQL'\n(BEGIN;.*?COMMIT;)\nSQL", page, re.DOTALL)
    await ed_fi_admin.sql.execute(statements)
    rows = await InstanceQueries(ed_fi_admin.engine).instances(offset=0, limit=100)
    assert {row.status for row in rows} == {"Deleted"}
    assert await job_store.waiting_jobs(0, 100) == []
    assert await job_store.running_jobs(0, 100) == []


async def test_instance_is_deleted_for_both_when_an_admin_api_has_deleted_it_after_a_rename(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    await bring_to(*stores(ed_fi_admin.engine), "Completed_Rename", "Ours")
    await ed_fi_admin.rename_script()
    await ed_fi_admin.sql.execute("UPDATE adminapi.odsinstancemanages SET status = 'Deleted'")
    (instance,) = await InstanceQueries(ed_fi_admin.engine).instances(offset=0, limit=10)
    assert (instance.status, managed_status(instance.status, instance.operation)) == ("Deleted", "Deleted")
    await ed_fi_admin.migrate_again()
    assert await ed_fi_admin.status("Ours new") == "Deleted"


async def test_job_is_as_written_when_an_earlier_release_asks_for_a_delete(ed_fi_admin: EdFiAdmin) -> None:
    """Its processes may run on while the registry is migrated; they write `status`, as an Admin API does."""
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine)
    await bring_to(instances, job_store, "Completed", "Ours")
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete', operation = 'Delete', jobnumber = 2,"
        " attempt = 0, arguments = $1",
        json.dumps(asdict(DROP_AT_ONCE)),
    )
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert (delete.operation, delete.number, delete.attempt) == (Operation.DELETE, 2, 1)


@pytest.mark.parametrize("state", ["Completed", "Completed_Rename", "Error_Rename"])
async def test_database_goes_to_the_trash_when_an_admin_api_asks_for_a_delete(
    ed_fi_admin: EdFiAdmin, state: str
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    before = await bring_to(instances, job_store, state, "Ours")
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    assert await job_store.waiting_jobs(0, 10) == []  # it would be dropped at once
    for _ in range(2):
        await job_store.follow_admin_api()
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert delete.rules.to_trash
    assert delete.job_id == f"DeleteInstanceJob-{before.ods_instance_id}-{before.number + 1}"
    assert delete.trash_database == trash_name(delete.database_id)
    assert (await job_store.begin(delete)).held
    assert await job_store.finish_delete(delete)
    assert await ed_fi_admin.status("Ours" if state != "Completed_Rename" else "Ours new") == "Deleted"
    row = await InstanceQueries(ed_fi_admin.engine).any_instance(before.instance_id)
    assert row is not None
    assert row.is_in_trash
    assert row.database.purge_after is not None
    assert row.database.trashed_at is not None
    assert row.database.purge_after - row.database.trashed_at > WEEK - timedelta(hours=1)


async def job_states(ed_fi_admin: EdFiAdmin) -> dict[str, str]:
    """The status of each job, by its id."""
    rows = await ed_fi_admin.sql.fetch("SELECT jobid, status FROM adminapi.jobstatuses")
    return {row["jobid"]: row["status"] for row in rows}


@pytest.mark.parametrize("state", ["InProgress", "Pending_Rename", "InProgress_Rename"])
async def test_job_has_failed_when_an_admin_api_has_overtaken_it_with_a_delete(
    ed_fi_admin: EdFiAdmin, state: str
) -> None:
    """No worker can record its end, for each step is refused: clients would wait for it for ever."""
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    overtaken = await bring_to(instances, job_store, state, "Ours")
    other = await bring_to(instances, job_store, "InProgress", "Ours as well")
    await job_store.follow_admin_api()
    before = await job_states(ed_fi_admin)
    assert {before[it.job_id] for it in (overtaken, other)} <= {"Pending", "InProgress"}
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE name = 'Ours'"
    )
    await job_store.follow_admin_api()
    (delete,) = await job_store.waiting_jobs(0, 10)
    after = await job_states(ed_fi_admin)
    assert after == before | {overtaken.job_id: "Error", delete.job_id: "Pending"}
    ended = await InstanceQueries(ed_fi_admin.engine).job(overtaken.job_id)
    assert ended is not None
    assert ended.finished_at is not None
    assert "Another product has requested a delete" in str(ended.error_message)


@pytest.mark.parametrize(("trash", "way"), [(WEEK, Way.TRASH), (timedelta(), Way.DROP)])
async def test_failed_create_is_deleted_as_by_its_own_api_when_an_admin_api_asks_for_it(
    ed_fi_admin: EdFiAdmin, trash: timedelta, way: Way
) -> None:
    """The registry may have been restored to before it knew of the database, which the trash keeps."""
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=trash, final_backup=True)
    created = await bring_to(instances, job_store, "Error", "Ours")
    row = await InstanceQueries(ed_fi_admin.engine).instance(created.instance_id)
    assert instances.deletes.way(row, Delete()) is way
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    await job_store.follow_admin_api()
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert (delete.rules.name, delete.backup_first) == (way, False)


@pytest.mark.parametrize("way", [Way.TRASH, Way.LEAVE])
async def test_failed_delete_goes_on_as_it_was_requested_when_an_admin_api_asks_for_it_again(
    ed_fi_admin: EdFiAdmin, way: Way
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    failed = (await instances.request_delete(created.instance_id, Delete(way))).job
    await job_store.begin(failed)
    await job_store.fail(failed, "Sessions do not end.")
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    await job_store.follow_admin_api()
    (again,) = await job_store.waiting_jobs(0, 10)
    assert again == replace(failed, request=again.request, attempt=2)


async def test_delete_is_a_new_job_when_an_admin_api_asks_for_it_after_one_that_was_cancelled(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    queries = InstanceQueries(ed_fi_admin.engine)
    cancelled = await bring_to(instances, job_store, "Pending_Delete", "Ours")
    job = await queries.job(cancelled.job_id)
    assert job is not None
    factory = JobFactory(InstallationStore(ed_fi_admin.engine), POLICY)
    assert await JobCancellations(ed_fi_admin.engine, factory).cancel_waiting(job)
    row = await queries.instance(cancelled.instance_id)
    assert (row.status, row.database.purge_after) == ("Completed", None)
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    await job_store.follow_admin_api()
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert (delete.rules.name, delete.number) == ("Trash", cancelled.number + 1)
    assert delete.trash_database == trash_name(delete.database_id)


# What the sweep follows


async def test_delete_of_an_admin_api_has_a_job_when_a_sweep_has_found_it(ed_fi_admin: EdFiAdmin) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    queries = InstanceQueries(ed_fi_admin.engine)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    await bring_to(instances, job_store, "Pending_Delete", "Ours as well")
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE name = 'Ours'"
    )
    for _ in range(2):
        await job_store.follow_admin_api()
        assert await ed_fi_admin.sql.fetchval("SELECT count(*) FROM adminapi.jobstatuses") == 4
    delete, _ = await job_store.waiting_jobs(0, 10)
    job = await queries.job(delete.job_id)
    assert job is not None
    assert (job.status, job.instance_id, job.operation) == ("Pending", created.instance_id, "Delete")
    assert (await job_store.begin(delete)).held
    await job_store.follow_admin_api()
    job = await queries.job(delete.job_id)
    assert job is not None
    assert job.status == "InProgress"

    await job_store.fail(delete, "It could not be deleted.")
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE name = 'Ours'"
    )
    await job_store.follow_admin_api()
    job = await queries.job(delete.job_id)
    assert job is not None
    assert (job.status, job.error_message, job.finished_at) == ("Pending", None, None)


async def test_rows_have_the_words_of_an_admin_api_when_a_sweep_follows_its_rename_of_the_table(
    ed_fi_admin: EdFiAdmin, postgres: EmbeddedPostgres, reader: str
) -> None:
    """The service's role has no right on the table itself."""
    await ed_fi_admin.install()
    await ed_fi_admin.our_rows()
    states = "SELECT name, state, operation, lastmodifieddate FROM adminapi.managed_instances ORDER BY id"
    before = await ed_fi_admin.sql.fetch(states)
    _, job_store = stores(ed_fi_admin.engine)
    await job_store.follow_admin_api()
    assert await ed_fi_admin.status("Ours Completed") == "Completed"

    await ed_fi_admin.rename_script()
    await ed_fi_admin.sql.execute("GRANT USAGE ON SCHEMA adminapi TO reader")
    async with session(f"{reader}/{ed_fi_admin.dsn.rpartition('/')[2]}") as service:
        await service.execute("SELECT adminapi.follow_rename()")
    await ed_fi_admin.sql.execute("REVOKE USAGE ON SCHEMA adminapi FROM reader")
    for name, state, operation, _ in before:
        assert await ed_fi_admin.status(name) == managed_status(state, operation)
    assert await ed_fi_admin.sql.fetch(states) == before
    await job_store.follow_admin_api()
    await ed_fi_admin.migrate_again()
    assert await ed_fi_admin.sql.fetch(states) == before


async def test_other_rows_follow_the_rename_when_another_session_has_locked_one(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine)
    for name in ("A", "B"):
        await bring_to(instances, job_store, "InProgress_Rename", name)
    await ed_fi_admin.rename_script()
    async with session(ed_fi_admin.dsn) as forgotten, forgotten.transaction():
        await forgotten.execute("SELECT FROM adminapi.odsinstancemanages WHERE name = 'A' FOR UPDATE")
        async with asyncio.timeout(5):
            await job_store.follow_admin_api()
        assert [await ed_fi_admin.status(name) for name in ("A", "B")] == [
            "InProgress",
            managed_status(InstanceStatus.IN_PROGRESS, Operation.RENAME),
        ]
    await job_store.follow_admin_api()
    assert await ed_fi_admin.status("A") == await ed_fi_admin.status("B")


async def test_other_table_is_left_alone_when_the_service_follows_and_both_are_there(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    await ed_fi_admin.sql.execute(ADMIN_API_INSTANCES.replace("dbinstances", "odsinstancemanages"))
    _, job_store = stores(ed_fi_admin.engine)
    await job_store.follow_admin_api()
