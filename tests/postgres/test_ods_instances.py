"""Changing ODS instances past the life of the instances behind them: neither is left without the other."""

import asyncio
import base64
from collections.abc import Awaitable
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import Operation, Template
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.registry.ods_instances.parts import ContextDraft, Contexts
from ods.registry.ods_instances.store import OdsInstanceDraft, OdsInstances
from ods.registry.storage.errors import InvalidError, NameTakenError, RefusedError, RowNotFoundError
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.ods_api import decrypt
from tests.postgres.instance_states import CONNECTION_STRING, STATES, bring_to, status_in
from tests.servers import ENCRYPTION_KEY

DRAFT = OdsInstanceDraft("unmanaged", "A type", "host=h;database=d")
AT_REST = {"Completed", "Completed_Rename", "Error_Rename"}
ROUTED = AT_REST | {"Pending_Delete", "Pending_Rename", "InProgress_Rename"}
ADOPTED_NAME = "An adopted name, longer than ours may be: ☃"


@pytest.fixture
def ods_instances(engine: AsyncEngine, instances: InstanceStore, settings: Settings) -> OdsInstances:
    return OdsInstances(engine, instances, OdsConnectionStrings.from_settings(settings))


@pytest.fixture
def contexts(engine: AsyncEngine) -> Contexts:
    return Contexts(engine)


def draft(name: str, kind: str | None = "Minimal", text: str | None = None) -> OdsInstanceDraft:
    return OdsInstanceDraft(name, kind, text)


async def instance_of(rows: asyncpg.Connection, job: InstanceJob) -> asyncpg.Record:
    row = await rows.fetchrow("SELECT * FROM adminapi.dbinstances WHERE id = $1", job.instance_id)
    assert row is not None
    return row


async def ods_instance_of(rows: asyncpg.Connection, job: InstanceJob) -> asyncpg.Record | None:
    return await rows.fetchrow("SELECT * FROM dbo.odsinstances WHERE odsinstanceid = $1", job.ods_instance_id)


def changes_of(ods_instances: OdsInstances, job: InstanceJob) -> list[Awaitable[object]]:
    """Everything that can be done to the ODS instance of an instance."""
    number = job.ods_instance_id
    return [ods_instances.delete(number), ods_instances.update(number, draft("x"))]


@pytest.mark.parametrize("state", sorted(AT_REST))
async def test_instance_waits_for_its_deletion_when_its_ods_instance_is_deleted(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    state: str,
) -> None:
    earlier = await bring_to(instances, job_store, state, name)
    requested = await ods_instances.delete(earlier.ods_instance_id)

    assert requested is not None
    job = requested.job
    way = "Trash" if job.published else "Delete"
    assert (job.rules.name, job.number, job.attempt) == (way, earlier.number + 1, 1)
    assert await ods_instance_of(rows, job) is None
    assert (await instance_of(rows, job))["status"] == "Pending_Delete"
    assert [waiting.job_id for waiting in await job_store.waiting_jobs(0, 9)] == [job.job_id]
    assert (
        await rows.fetchval("SELECT status FROM adminapi.jobstatuses WHERE jobid = $1", job.job_id)
        == "Pending"
    )


async def test_parts_of_another_products_ods_instance_are_not_taken_when_it_has_the_id_of_a_failed_create(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    failed = await bring_to(instances, job_store, "Error", name)
    number = failed.ods_instance_id
    await rows.execute("INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES ($1, 'Elsewhere')", number)
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'year', '2027')",
        number,
    )
    with pytest.raises(InvalidError) as refused:
        await ods_instances.delete(number)
    assert "refer to this ODS instance" in str(refused.value.errors)
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 1
    await rows.execute("DELETE FROM dbo.odsinstancecontexts")
    assert await ods_instances.delete(number) is not None
    assert (await instance_of(rows, failed))["setaside"] is None


@pytest.mark.parametrize("state", ["Completed", "Error", "DeleteFailed"])
async def test_ods_instance_is_left_to_the_other_product_that_has_added_its_instance(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    state: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute("UPDATE adminapi.dbinstances SET jobnumber = 0 WHERE id = $1", job.instance_id)
    await rows.execute("UPDATE adminapi.dbinstances SET status = $1 WHERE id = $2", state, job.instance_id)
    before = await instance_of(rows, job), await ods_instance_of(rows, job)
    for change in changes_of(ods_instances, job):
        with pytest.raises(InvalidError) as refused:
            await change
        assert "Another product has added the instance" in str(refused.value.errors["Id"])
    assert (await instance_of(rows, job), await ods_instance_of(rows, job)) == before


async def add_another(
    ods_instances: OdsInstances, strings: OdsConnectionStrings, job: InstanceJob, database: str | None = None
) -> int:
    """A client adds another ODS instance, which leads to the instance's database, or to that of this name."""
    added = await ods_instances.create(draft(f"{job.name} too", "Minimal", "host=h;database=d"))
    await lead(ods_instances, strings, added.ods_instance_id, database or job.database)
    return added.ods_instance_id


async def lead(
    ods_instances: OdsInstances, strings: OdsConnectionStrings, number: int, database: str
) -> None:
    """A client has an ODS instance lead to a database."""
    name = f"Leads to {database}"
    await ods_instances.update(number, draft(name, None, str(strings.decrypted(strings.encrypted(database)))))


@pytest.mark.parametrize("way", [None, Operation.DELETE])
@pytest.mark.parametrize("remedy", ["delete it", "lead it elsewhere", "detach"])
async def test_delete_waits_until_no_other_ods_instance_leads_to_the_database(
    ods_instances: OdsInstances, tenant: Tenant, name: str, way: Way | None, remedy: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, "Completed", name)
    other = await add_another(ods_instances, tenant.connection_strings, job)
    with pytest.raises(RefusedError) as refused:
        await tenant.instances.request_delete(job.instance_id, Delete(way))
    assert f"{other} 'Leads to {job.database}'" in refused.value.reason
    with pytest.raises(InvalidError) as invalid:
        await ods_instances.delete(job.ods_instance_id)
    (reason,) = invalid.value.errors["Id"]
    assert f"{other} 'Leads to {job.database}'" in reason
    match remedy:
        case "delete it":
            await ods_instances.delete(other)
        case "lead it elsewhere":
            await lead(ods_instances, tenant.connection_strings, other, "another")
        case _:
            way = Way.LEAVE
    deletion = (await tenant.instances.request_delete(job.instance_id, Delete(way))).job
    begun = await tenant.jobs.begin(deletion)
    assert (begun.held, begun.refusal) == (True, None)


@pytest.mark.parametrize("state", ["Error", "Completed"])
async def test_delete_does_not_wait_for_ods_instances_that_lead_to_no_database_of_the_instance(
    ods_instances: OdsInstances, tenant: Tenant, rows: asyncpg.Connection, name: str, state: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, state, name)
    database = job.database if state == "Error" else f"{job.database}_2"  # of a create that has made none
    await add_another(ods_instances, tenant.connection_strings, job, database)
    elsewhere = tenant.connection_strings.encrypted_text(f"host=elsewhere;database={job.database}")
    await rows.executemany(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ($1, $2)",
        [("on another server", elsewhere), ("unreadable", CONNECTION_STRING), ("none", None)],
    )
    await tenant.instances.request_delete(job.instance_id)


async def test_deletion_is_refused_and_can_be_asked_again_when_a_client_adds_an_ods_instance_for_the_database(
    ods_instances: OdsInstances, tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, "Pending_Delete", name)
    other = await add_another(ods_instances, tenant.connection_strings, job)
    assert not (await tenant.jobs.begin(job)).held
    refused = await tenant.queries.instance(job.instance_id)
    assert refused.status == "Completed"
    assert f"{other} 'Leads to {job.database}'" in str(refused.error_message)
    assert await ods_instance_of(rows, job) is not None
    await ods_instances.delete(other)
    again = (await tenant.instances.request_delete(job.instance_id)).job
    begun = await tenant.jobs.begin(again)
    assert (begun.held, begun.refusal) == (True, None)
    assert await ods_instance_of(rows, job) is None


async def test_deletion_runs_to_its_end_when_the_ods_instance_is_gone_before_it_begins(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    requested = await ods_instances.delete(created.ods_instance_id)
    assert requested is not None
    job = requested.job

    begun = await job_store.begin(job)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.begin(job) == begun
    assert await job_store.fail(job, "The server is away.")
    again = (await instances.request_retry(job.instance_id)).job
    assert (await job_store.begin(again)).held
    assert await job_store.finish_delete(again)
    assert (await instance_of(rows, job))["status"] == "Deleted"
    assert (await instances.reserve(name, Template.MINIMAL)).job.name == name


@pytest.mark.parametrize("state", sorted(ROUTED - AT_REST))
async def test_ods_instance_stays_as_it_is_when_a_job_of_its_instance_is_under_way(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    state: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = (await ods_instance_of(rows, job), await instance_of(rows, job))

    for change in (
        ods_instances.delete(job.ods_instance_id),
        ods_instances.update(job.ods_instance_id, draft("x")),
    ):
        with pytest.raises(InvalidError) as refusal:
            await change
        ((property_name, (message,)),) = ((key, told) for key, told in refusal.value.errors.items() if told)
        assert property_name == "Id"
        assert status_in(state) in message
    assert (await ods_instance_of(rows, job), await instance_of(rows, job)) == before


@pytest.mark.parametrize("state", [state for state in STATES if state not in ROUTED])
async def test_ods_instance_is_not_found_when_its_instance_has_none(
    ods_instances: OdsInstances, instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    for change in (
        ods_instances.delete(job.ods_instance_id),
        ods_instances.update(job.ods_instance_id, draft("x")),
    ):
        with pytest.raises(RowNotFoundError):
            await change


async def test_deletion_is_requested_anew_when_the_ods_instance_of_a_failed_one_is_deleted(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    deletion = (await instances.request_delete(created.instance_id)).job
    assert (await job_store.begin(deletion, "The database is not ours.")).refusal
    await job_store.fail(deletion, "The database is not ours.")
    assert await ods_instance_of(rows, created)

    requested = await ods_instances.delete(created.ods_instance_id)
    assert requested is not None
    assert requested.job.number == deletion.number + 1
    assert await ods_instance_of(rows, created) is None


async def test_nothing_else_happens_when_the_ods_instance_of_no_instance_is_deleted(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    bystander = await bring_to(instances, job_store, "Completed", name)
    row = await ods_instances.create(DRAFT)

    assert await ods_instances.delete(row.ods_instance_id) is None
    assert [waiting.job_id for waiting in await job_store.waiting_jobs(0, 9)] == []
    assert await ods_instance_of(rows, bystander)


@pytest.mark.parametrize("state", sorted(AT_REST))
async def test_both_rows_have_the_new_name_and_the_database_its_own_when_an_ods_instance_is_renamed(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    state: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await instance_of(rows, job)
    await ods_instances.update(job.ods_instance_id, draft(f" {name} renamed "))

    after, routed = await instance_of(rows, job), await ods_instance_of(rows, job)
    assert routed is not None
    assert (after["name"], after["odsinstancename"], routed["name"]) == (f"{name} renamed",) * 3
    assert (after["status"], after["databasename"]) == (before["status"], before["databasename"])
    assert after["lastmodifieddate"] > before["lastmodifieddate"]
    assert routed["connectionstring"] == CONNECTION_STRING
    with pytest.raises(NameTakenError):
        await instances.reserve(f"{name} renamed", Template.SAMPLE)


async def test_old_name_is_free_but_for_its_database_when_an_ods_instance_was_renamed(
    ods_instances: OdsInstances, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await ods_instances.update(job.ods_instance_id, draft(f"{name} renamed"))

    with pytest.raises(NameTakenError, match=f"whose database is named '{job.database}'"):
        await instances.reserve(name, Template.MINIMAL)
    assert (await instances.reserve(name, Template.SAMPLE)).job.name == name


async def test_later_jobs_know_the_new_name_when_an_ods_instance_was_renamed(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await ods_instances.update(job.ods_instance_id, draft(f"{name} renamed"))

    deletion = (await instances.request_delete(job.instance_id)).job
    assert (deletion.name, deletion.database) == (f"{name} renamed", job.database)
    assert (await job_store.begin(deletion)).held
    assert await job_store.finish_delete(deletion)


async def test_name_keeps_the_rules_of_instances_when_there_is_one_behind(
    ods_instances: OdsInstances, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    for bad in ("", "  ", "n" * 47, "naïve", "a-b"):
        with pytest.raises(InvalidError) as refusal:
            await ods_instances.update(job.ods_instance_id, draft(bad))
        assert refusal.value.errors["Name"]
    assert (await ods_instances.create(replace(DRAFT, name="naïve-" + "n" * 94))).ods_instance_id


async def test_name_is_refused_when_another_has_it_or_shall_have_it(
    ods_instances: OdsInstances, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await bring_to(instances, job_store, "Pending", f"{name} pending")
    await bring_to(instances, job_store, "Error", f"{name} failed")
    await bring_to(instances, job_store, "Pending_Rename", f"{name} moving")
    await bring_to(instances, job_store, "Deleted", f"{name} deleted")
    other = await ods_instances.create(replace(DRAFT, name=f"{name} other"))

    for occupied in ("pending", "failed", "moving", "moving new", "other"):
        for change in (
            ods_instances.update(job.ods_instance_id, draft(f"{name} {occupied}")),
            ods_instances.create(replace(DRAFT, name=f"{name} {occupied}")),
        ):
            with pytest.raises(InvalidError) as refusal:
                await change
            assert "already exists" in refusal.value.errors["Name"][0]
    with pytest.raises(InvalidError):
        await ods_instances.update(other.ods_instance_id, draft(name))
    assert (
        await ods_instances.update(job.ods_instance_id, draft(f"{name} deleted"))
    ).name == f"{name} deleted"


async def test_type_and_connection_string_are_replaced_and_the_instance_is_not_when_there_is_one_behind(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    before = await instance_of(rows, job)
    await ods_instances.update(job.ods_instance_id, draft(name, "A type", "host=pooler;database=d"))

    routed = await ods_instance_of(rows, job)
    assert routed is not None
    assert (routed["name"], routed["instancetype"]) == (name, "A type")
    assert decrypt(routed["connectionstring"], base64.b64decode(ENCRYPTION_KEY)) == "host=pooler;database=d"
    assert await instance_of(rows, job) == before


async def test_name_that_no_rule_allows_any_more_is_kept_when_only_the_rest_is_changed(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute("UPDATE dbo.odsinstances SET name = $1", ADOPTED_NAME)

    row = await ods_instances.update(job.ods_instance_id, draft(ADOPTED_NAME, None))
    assert row.instance_type is None
    assert (await instance_of(rows, job))["name"] == name


async def test_duplicates_made_by_others_are_refused_when_a_type_would_make_them_equal(
    ods_instances: OdsInstances, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances VALUES (1, 'twin', 'a'), (2, 'twin', 'b')")
    with pytest.raises(InvalidError) as refusal:
        await ods_instances.update(2, draft("twin", "a"))

    assert "already exists" in refusal.value.errors["Name"][0]
    assert (await ods_instances.update(2, draft("twin", "c"))).instance_type == "c"


async def test_deletion_is_refused_when_rows_of_an_unknown_table_refer_to_the_ods_instance(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute("CREATE TABLE dbo.unknown (id int REFERENCES dbo.odsinstances)")
    try:
        await rows.execute("INSERT INTO dbo.unknown VALUES ($1)", job.ods_instance_id)
        with pytest.raises(InvalidError) as refusal:
            await ods_instances.delete(job.ods_instance_id)
    finally:
        await rows.execute("DROP TABLE dbo.unknown")

    assert refusal.value.errors["Id"][0].endswith("Can not be deleted.")
    assert (await instance_of(rows, job))["status"] == "Completed"
    assert await ods_instance_of(rows, job)


async def test_context_or_deletion_wins_when_both_are_asked_for_at_once(
    ods_instances: OdsInstances, contexts: Contexts, rows: asyncpg.Connection
) -> None:
    for number in range(1, 11):
        await rows.execute("INSERT INTO dbo.odsinstances VALUES ($1, $2)", number, f"n{number}")
        context = contexts.create(ContextDraft(number, "year", "2026"))
        answers = await asyncio.gather(ods_instances.delete(number), context, return_exceptions=True)

        (refused,) = [answer for answer in answers if isinstance(answer, Exception)]
        assert isinstance(refused, InvalidError if refused is answers[0] else RowNotFoundError)


async def test_one_deletion_wins_when_both_surfaces_are_asked_at_once(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    for number in range(5):
        job = await bring_to(instances, job_store, "Completed", f"{name} {number}")
        answers = await asyncio.gather(
            ods_instances.delete(job.ods_instance_id),
            instances.request_delete(job.instance_id),
            return_exceptions=True,
        )
        assert len([answer for answer in answers if isinstance(answer, Exception)]) == 1
        row = await instance_of(rows, job)
        assert (row["status"], row["jobnumber"]) == ("Pending_Delete", 2)


async def test_id_is_a_free_one_when_the_sequence_was_set_back(
    ods_instances: OdsInstances,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending", name)
    await rows.execute(
        "SELECT setval(pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid'), $1, false)",
        job.ods_instance_id,
    )

    assert (await ods_instances.create(DRAFT)).ods_instance_id > job.ods_instance_id
