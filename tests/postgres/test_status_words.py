"""The status of an instance, in the words of this service and of an Admin API that shares the table."""

import asyncpg
import pytest

from api.schemas.managed_status import ManagedStatus, managed_status
from embedded.postgres import EmbeddedPostgres
from registry.instances.queries import InstanceQueries
from registry.instances.status import InstanceStatus, Operation
from registry.storage.errors import RefusedError
from registry.storage.models import DbInstance
from tests.postgres.ed_fi_admin import STATE_OF_WORD, EdFiAdmin
from tests.postgres.instance_states import CONNECTION_STRING, bring_to, stores
from tests.servers import session

VIEW = f"adminapi.{DbInstance.__tablename__}"


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


async def test_our_instance_is_deleted_when_an_admin_api_asks_for_it_in_the_table(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    (delete,) = await job_store.waiting_jobs(0, 10)
    assert (delete.instance_id, delete.operation) == (created.instance_id, Operation.DELETE)
    begun = await job_store.begin(delete)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.finish_delete(delete)
    assert await ed_fi_admin.status("Ours") == "Deleted"
