"""Requesting and finishing renames in the registry: whose a name is, and what changes with it."""

import asyncio
from collections.abc import Mapping

import asyncpg
import pytest

from ods.model.operations import Operation, Template
from ods.registry.connection_strings.encryption import fits_column
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import database_name
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import NameTakenError, RefusedError
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, STATES, bring_to, let_time_pass, status_in
from tests.servers import session

RENAMABLE = {"Completed", "Completed_Rename", "Error_Rename"}


async def was_granted(*requests: object) -> list[bool]:
    """Which of these requests, made at once, were granted."""
    answers = await asyncio.gather(*requests, return_exceptions=True)  # type: ignore[call-overload]
    assert all(isinstance(it, NameTakenError) for it in answers if isinstance(it, Exception))
    return [not isinstance(it, Exception) for it in answers]


@pytest.mark.parametrize("state", sorted(RENAMABLE))
async def test_rename_waits_as_a_new_job_when_the_state_allows_it(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, state: str
) -> None:
    earlier = await bring_to(instances, job_store, state, name)
    requested = await instances.request_rename(earlier.instance_id, f"{name} other")
    job = requested.job
    assert (job.operation, job.number, job.attempt) == (Operation.RENAME, earlier.number + 1, 1)
    assert (job.new_name, job.new_database) == (
        f"{name} other",
        f"EdFi_Ods_{name} other_Minimal".replace(" ", "_"),
    )
    assert job.job_id == f"RenameInstanceJob-{job.ods_instance_id}-{job.number}"
    assert job.published
    assert (requested.instance.status, requested.instance.name) == ("Pending", job.name)
    assert await rows.fetchval("SELECT name FROM dbo.odsinstances") == job.name


@pytest.mark.parametrize("state", [state for state in STATES if state not in {*RENAMABLE, "Deleted"}])
async def test_rename_is_refused_with_a_next_step_when_the_state_does_not_allow_it(
    instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    with pytest.raises(RefusedError) as refused:
        await instances.request_rename(job.instance_id, f"{name} other")
    assert refused.value.status == status_in(state)
    assert refused.value.reason.endswith("cannot be renamed.")
    assert refused.value.next_step


async def test_everything_has_the_new_name_and_no_more_the_old_when_a_rename_is_finished(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Rename", name)
    assert await job_store.finish_rename(job, "new|connection|string")
    row = await rows.fetchrow(
        "SELECT i.status, i.name, i.odsinstancename, i.databasename, i.newname, i.newdatabasename,"
        " i.errormessage, o.name, o.instancetype, o.connectionstring, j.status"
        " FROM adminapi.dbinstances AS i JOIN dbo.odsinstances AS o USING (odsinstanceid)"
        " JOIN adminapi.jobstatuses AS j ON j.jobid = $1",
        job.job_id,
    )
    assert row is not None
    new = f"{name} new"
    assert tuple(row) == (
        *("Completed", new, new, job.new_database, None, None, None),
        *(new, "Minimal", "new|connection|string", "Completed"),
    )
    await let_time_pass(rows)
    assert (await instances.reserve(name, Template.MINIMAL)).job.database == job.database


async def _require_reserved(
    instances: InstanceStore, name: str, others: Mapping[str, InstanceJob], words: str
) -> None:
    """No other instance can have the name: not a new one, one that is renamed, nor one from the trash."""
    with pytest.raises(NameTakenError, match=words):
        await instances.reserve(name, Template.MINIMAL)
    with pytest.raises(NameTakenError, match=words):
        await instances.request_rename(others["live"].instance_id, name)
    with pytest.raises(RefusedError, match=words) as refused:
        await instances.request_undelete(others["trashed"].instance_id, name)
    assert refused.value.next_step.startswith("Undelete the instance under another name")


async def _finish_rename(instances: InstanceStore, jobs: JobStore, job: InstanceJob, name: str) -> None:
    renaming = (await instances.request_rename(job.instance_id, name)).job
    assert (await jobs.begin(renaming)).held
    assert await jobs.finish_rename(renaming, CONNECTION_STRING)


async def test_each_name_that_renames_have_left_is_reserved_until_no_cache_of_the_ods_api_has_it(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    """Clients of the renamed instance would write into the database of another one."""
    others = {
        "live": await bring_to(instances, job_store, "Completed", f"{name} live"),
        "trashed": await bring_to(instances, job_store, "Deleted", f"{name} trashed"),
    }
    job = await bring_to(instances, job_store, "Completed", name)
    await _finish_rename(instances, job_store, job, f"{name} once")
    await let_time_pass(rows, 7)
    await _finish_rename(instances, job_store, job, f"{name} twice")
    await _require_reserved(instances, name, others, r"Wait 3 minutes, or choose another name\.")
    await _require_reserved(instances, f"{name} once", others, "Wait 10 minutes")
    await let_time_pass(rows, 2)
    await _require_reserved(instances, name, others, "Wait 1 minute,")
    await let_time_pass(rows, 1)
    await instances.reserve(name, Template.MINIMAL)
    await _require_reserved(instances, f"{name} once", others, "Wait 7 minutes")
    await _finish_rename(instances, job_store, others["live"], f"{name} moved")
    left = await rows.fetch("SELECT databasename FROM adminapi.leftdatabasenames ORDER BY leftat")
    words = (f"{name} once", f"{name} live")
    assert [row["databasename"] for row in left] == [database_name(it, Template.MINIMAL) for it in words]


async def test_rename_ends_when_another_session_has_locked_a_name_that_is_free_again(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, registry_dsn: str, name: str
) -> None:
    """As a process that hangs at the end of the rename of another instance, which forgets such names."""
    first, second = [await bring_to(instances, job_store, "Completed", f"{name} {it}") for it in "AB"]
    await _finish_rename(instances, job_store, first, f"{name} C")
    await let_time_pass(rows)
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        await forgotten.execute("SELECT FROM adminapi.leftdatabasenames FOR UPDATE")
        await _finish_rename(instances, job_store, second, f"{name} D")
    left = await rows.fetch("SELECT databasename FROM adminapi.leftdatabasenames ORDER BY leftat")
    assert [row["databasename"] for row in left] == [first.database, second.database]


async def test_name_with_another_database_is_free_when_a_rename_has_left_it(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    await bring_to(instances, job_store, "Completed_Rename", name)
    await instances.reserve(name, Template.SAMPLE)


@pytest.mark.parametrize("way", ["rename", "undelete"])
async def test_instance_takes_back_the_name_that_it_has_left_and_a_delete_frees_it(
    tenant: Tenant, instances: InstanceStore, name: str, way: str
) -> None:
    job = await bring_to(instances, tenant.jobs, "Completed_Rename", name)
    if way == "undelete":
        await _delete(instances, tenant.jobs, job)
        undelete = (await instances.request_undelete(job.instance_id, name)).job
        assert (await tenant.jobs.begin(undelete)).refusal is None
        assert await tenant.jobs.finish_undelete(undelete, CONNECTION_STRING)
    else:
        await _finish_rename(instances, tenant.jobs, job, name)
    with pytest.raises(NameTakenError, match="already exists"):
        await instances.reserve(name, Template.MINIMAL)
    await _delete(instances, tenant.jobs, job)
    await instances.reserve(name, Template.MINIMAL)


async def _delete(instances: InstanceStore, jobs: JobStore, job: InstanceJob) -> None:
    deletion = (await instances.request_delete(job.instance_id)).job
    await jobs.begin(deletion)
    assert await jobs.finish_delete(deletion)


async def test_no_name_is_reserved_when_the_database_keeps_its_own_or_the_rename_fails(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await _finish_rename(instances, job_store, job, name.replace(" ", "_"))  # the same name of the database
    await bring_to(instances, job_store, "Error_Rename", f"{name} failed")
    assert await rows.fetchval("SELECT count(*) FROM adminapi.leftdatabasenames") == 0


async def _add_derivative(rows: asyncpg.Connection, ods_instance_id: int, kind: str, text: str) -> None:
    await rows.execute(
        "INSERT INTO dbo.odsinstancederivatives"
        " (odsinstance_odsinstanceid, derivativetype, connectionstring) VALUES ($1, $2, $3)",
        *(ods_instance_id, kind, text),
    )


async def _derivatives(rows: asyncpg.Connection) -> dict[str, str]:
    found = await rows.fetch("SELECT derivativetype, connectionstring FROM dbo.odsinstancederivatives")
    return {row["derivativetype"]: row["connectionstring"] for row in found}


@pytest.mark.parametrize("host", ["127.0.0.1", "replica.example"])
async def test_derivative_leads_to_the_renamed_database_and_keeps_all_else_on_whatever_server(
    tenant: Tenant, instances: InstanceStore, rows: asyncpg.Connection, name: str, host: str
) -> None:
    job = await bring_to(instances, tenant.jobs, "InProgress_Rename", name)
    strings = tenant.connection_strings
    text = f'host={host};Db={{}};port=6432;username=ods_api;password="a;b";application name=mine'
    snapshot = strings.encrypted(f"{job.database}_Snapshot_20260131")
    await _add_derivative(
        rows, job.ods_instance_id, "ReadReplica", strings.encrypted_text(text.format(job.database))
    )
    await _add_derivative(rows, job.ods_instance_id, "Snapshot", snapshot)
    assert await tenant.jobs.finish_rename(job, CONNECTION_STRING)
    found = await _derivatives(rows)
    replica = strings.decrypted(found["ReadReplica"])
    assert replica.database == job.new_database
    assert (replica.endpoints, replica.login) == (((host, 6432),), ("ods_api", "a;b"))
    assert ("application name", "mine") in replica.pairs
    assert found["Snapshot"] == snapshot


async def test_derivative_stays_as_it_is_when_it_is_unreadable_leads_elsewhere_or_has_no_room(
    tenant: Tenant, instances: InstanceStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, tenant.jobs, "InProgress_Rename", name)
    other = await bring_to(instances, tenant.jobs, "Completed", f"{name} other")
    strings = tenant.connection_strings
    long = f"host=h;database={job.database};options="
    while fits_column(f"{long}xxx"):
        long += "xxx"
    kept = {
        "unreadable": "iv|ciphertext|hmac",
        "elsewhere": strings.encrypted("another database"),
        "no host": strings.encrypted_text(f"database={job.database}"),
        "no room": strings.encrypted_text(long),
    }
    for kind, text in kept.items():
        await _add_derivative(rows, job.ods_instance_id, kind, text)
    kept["of another"] = strings.encrypted(job.database)
    await _add_derivative(rows, other.ods_instance_id, "of another", kept["of another"])
    assert await tenant.jobs.finish_rename(job, CONNECTION_STRING)
    assert await _derivatives(rows) == kept


async def test_derivative_stays_as_it_is_when_the_rename_cannot_be_finished(
    tenant: Tenant, instances: InstanceStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, tenant.jobs, "InProgress_Rename", name)
    text = tenant.connection_strings.encrypted(job.database)
    await _add_derivative(rows, job.ods_instance_id, "ReadReplica", text)
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", job.new_name)
    with pytest.raises(NameTakenError):
        await tenant.jobs.finish_rename(job, CONNECTION_STRING)
    await tenant.jobs.fail(job, "The name was taken.")
    assert await _derivatives(rows) == {"ReadReplica": text}


async def _add_ods_instance(rows: asyncpg.Connection, name: str, text: str) -> int:
    added = "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ($1, $2) RETURNING odsinstanceid"
    return int(await rows.fetchval(added, name, text))


async def _ods_instances(rows: asyncpg.Connection) -> dict[str, str]:
    found = await rows.fetch("SELECT name, connectionstring FROM dbo.odsinstances")
    return {row["name"]: row["connectionstring"] for row in found}


async def test_other_ods_instance_and_its_derivatives_follow_when_it_leads_to_the_renamed_database(
    tenant: Tenant, instances: InstanceStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, tenant.jobs, "InProgress_Rename", name)
    other = await bring_to(instances, tenant.jobs, "Completed", f"{name} other")
    strings = tenant.connection_strings
    replica = strings.encrypted_text(f"host=replica.example;database={job.database}")
    kept = {
        "unreadable": CONNECTION_STRING,
        "elsewhere": strings.encrypted(other.database),
        "on another server": replica,
    }
    for kind, text in kept.items():
        await _add_derivative(rows, await _add_ods_instance(rows, kind, text), kind, text)
    following = {"by a client": await _add_ods_instance(rows, "by a client", strings.encrypted(job.database))}
    await rows.execute(
        "UPDATE dbo.odsinstances SET connectionstring = $2 WHERE odsinstanceid = $1",
        *(other.ods_instance_id, strings.encrypted(job.database)),
    )
    following[other.name] = other.ods_instance_id
    for kind, number in following.items():
        await _add_derivative(rows, number, kind, replica)
    assert await tenant.jobs.finish_rename(job, CONNECTION_STRING)
    found, derivatives = await _ods_instances(rows), await _derivatives(rows)
    for kind in following:
        assert strings.local_database(found[kind]) == job.new_database
        assert strings.decrypted(derivatives[kind]).database == job.new_database
    assert {kind: found[kind] for kind in kept} == kept
    assert {kind: derivatives[kind] for kind in kept} == kept


@pytest.mark.parametrize("state", ["Pending_Rename", "InProgress_Rename", "Error_Rename"])
async def test_both_names_are_taken_when_a_rename_is_not_done(
    instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    await bring_to(instances, job_store, state, name)
    other = await bring_to(instances, job_store, "Completed", f"{name} bystander")
    for occupied in (name, f"{name} new"):
        with pytest.raises(NameTakenError, match=f"named '{occupied}' already exists"):
            await instances.reserve(occupied, Template.SAMPLE)
        with pytest.raises(NameTakenError, match=f"named '{occupied}' already exists"):
            await instances.request_rename(other.instance_id, occupied)
        duplicate = occupied.replace(" ", "_")
        with pytest.raises(NameTakenError, match="database is named"):
            await instances.reserve(duplicate, Template.MINIMAL)


async def test_new_name_is_free_when_the_instance_was_deleted_instead(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Error_Rename", name)
    deletion = (await instances.request_delete(job.instance_id)).job
    with pytest.raises(NameTakenError):  # the database may have that name
        await instances.reserve(f"{name} new", Template.MINIMAL)
    await job_store.begin(deletion)
    await job_store.finish_delete(deletion)
    await instances.reserve(f"{name} new", Template.MINIMAL)


async def test_rename_is_refused_when_an_ods_instance_has_the_name(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ('by hand')")
    with pytest.raises(NameTakenError, match="named 'by hand' already exists"):
        await instances.request_rename(job.instance_id, "by hand")


async def test_own_name_is_free_when_a_failed_rename_is_taken_back(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Error_Rename", name)
    back = (await instances.request_rename(job.instance_id, name)).job
    assert (back.new_name, back.new_database) == (name, job.database)
    assert (await job_store.begin(back)).refusal is None
    assert await job_store.finish_rename(back, CONNECTION_STRING)


async def test_one_request_wins_when_creates_and_renames_ask_for_one_name_at_once(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    first, second = [await bring_to(instances, job_store, "Completed", f"{name} {n}") for n in range(2)]
    for number in range(8):
        wanted = f"{name} wanted {number}"
        granted = await was_granted(
            instances.request_rename(first.instance_id, wanted),
            instances.reserve(wanted, Template.SAMPLE),
            instances.request_rename(second.instance_id, wanted),
        )
        assert sum(granted) == 1
        for job, won in ((first, granted[0]), (second, granted[2])):
            if won:  # make it free for the next round
                (renaming,) = await job_store.waiting_jobs(job.instance_id - 1, 1)
                await job_store.begin(renaming)
                await job_store.finish_rename(renaming, CONNECTION_STRING)


async def test_rename_is_refused_at_its_beginning_when_an_ods_instance_took_the_name_meanwhile(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Pending_Rename", name)
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", job.new_name)
    begun = await job_store.begin(job)
    assert begun.held
    assert begun.refusal == f"An instance named '{job.new_name}' already exists. Choose another name."


async def test_rename_fails_unchanged_when_an_ods_instance_took_the_name_in_the_end(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Rename", name)
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", job.new_name)
    with pytest.raises(NameTakenError):
        await job_store.finish_rename(job, CONNECTION_STRING)
    assert await rows.fetchval("SELECT (name, status) = ($1, 'InProgress') FROM adminapi.dbinstances", name)


async def test_rename_is_refused_at_its_beginning_when_its_ods_instance_was_removed(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Pending_Rename", name)
    await rows.execute("DELETE FROM dbo.odsinstances")
    assert "does not exist any more" in str((await job_store.begin(job)).refusal)
