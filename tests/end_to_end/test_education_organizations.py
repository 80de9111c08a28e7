"""Refreshes of education organizations, carried out by real workers on real databases."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.education_organizations.refreshes import RefreshPolicy, Scope
from ods.settings.settings import Settings
from ods.temporal.refresh_starter import RefreshStarter
from ods.tenants.tenant import Tenant
from tests.ods import ROWS, add_ods_instance, connection_string, ods_database, organizations
from tests.servers import service_dsn, session
from workflows.passes import PendingSweep, Reconcile, ScheduledRefresh

pytestmark = pytest.mark.usefixtures("workers")


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with ods_database(postgres) as database:
        yield database


@pytest.fixture
async def scope(postgres: EmbeddedPostgres, rows: asyncpg.Connection, database: str) -> Scope:
    """The ODS instance that leads to the database."""
    return Scope(await add_ods_instance(rows, "North", connection_string(postgres.port, database)))


@pytest.fixture
async def lock(postgres: EmbeddedPostgres, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that keeps the database from being read until it rolls back."""
    async with session(service_dsn(postgres, database)) as holder:
        await holder.execute("BEGIN; LOCK TABLE edfi.educationorganization")
        yield holder


@pytest.fixture
def refresh_starter(temporal: Client, settings: Settings) -> RefreshStarter:
    return RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings))


async def _reached(rows: asyncpg.Connection, job_id: str, *statuses: str) -> asyncpg.Record:
    """The row of a job that has come so far."""
    async with asyncio.timeout(30):
        while True:
            row = await rows.fetchrow("SELECT * FROM adminapi.jobstatuses WHERE jobid = $1", job_id)
            assert row is not None
            if row["status"] in statuses:
                return row
            await asyncio.sleep(0.01)


async def _read(postgres: EmbeddedPostgres, database: str) -> None:
    """Wait until the worker tries to read the database."""
    async with session(service_dsn(postgres, database)) as watcher, asyncio.timeout(30):
        while not await watcher.fetch("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"):
            await asyncio.sleep(0.01)


async def test_all_are_read_and_the_unreadable_told_when_the_schedule_says_so(
    temporal: Client, settings: Settings, postgres: EmbeddedPostgres, rows: asyncpg.Connection, scope: Scope
) -> None:
    away = await add_ods_instance(rows, "Away", connection_string(postgres.port, "away"))
    await rows.execute(
        "INSERT INTO adminapi.educationorganizations"
        " (instanceid, instancename, educationorganizationid, nameofinstitution, discriminator)"
        " VALUES (1, 'Gone', 1, 'Gone', 'edfi.School')"
    )
    await temporal.execute_workflow(
        ScheduledRefresh.run, id=f"scheduled-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
    (job_id,) = [row["jobid"] for row in await rows.fetch("SELECT jobid FROM adminapi.jobstatuses")]
    job = await _reached(rows, job_id, "Completed")
    assert job["errormessage"] == (
        "1 of 2 ODS instances could not be read, and keep what was read earlier:"
        f" 'Away' (id {away}): the database does not exist."
    )
    assert scope.ods_instance_id is not None
    assert await organizations(rows, scope.ods_instance_id) == ROWS
    assert await organizations(rows, 1) == []


async def test_second_job_is_carried_out_after_the_first_when_it_was_requested_meanwhile(
    tenant: Tenant,
    refresh_starter: RefreshStarter,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    database: str,
    scope: Scope,
    lock: asyncpg.Connection,
) -> None:
    first = await tenant.refreshes.request(scope)
    await refresh_starter.start(scope)
    await _read(postgres, database)
    second = await tenant.refreshes.request(scope)
    await refresh_starter.start(scope)
    assert (await _reached(rows, first, "InProgress"))["finishedat"] is None
    assert (await _reached(rows, second, "Pending"))["startedat"] is None
    await lock.execute("ROLLBACK")
    ended = [await _reached(rows, job_id, "Completed") for job_id in (first, second)]
    assert ended[0]["finishedat"] < ended[1]["startedat"]


async def test_job_is_carried_out_by_another_workflow_when_its_own_was_terminated(
    tenant: Tenant,
    refresh_starter: RefreshStarter,
    temporal: Client,
    settings: Settings,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    database: str,
    scope: Scope,
    lock: asyncpg.Connection,
) -> None:
    job_id = await tenant.refreshes.request(scope)
    await refresh_starter.start(scope)
    await _read(postgres, database)
    await temporal.get_workflow_handle(scope.workflow_id).terminate()
    await lock.execute("ROLLBACK")
    await _reached(rows, job_id, "InProgress")
    await temporal.execute_workflow(
        Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
    await _reached(rows, job_id, "Completed")


async def test_job_is_carried_out_when_only_the_sweep_finds_it(
    tenant: Tenant, temporal: Client, settings: Settings, rows: asyncpg.Connection, scope: Scope
) -> None:
    job_id = await tenant.refreshes.request(scope)
    await temporal.execute_workflow(
        PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
    await _reached(rows, job_id, "Completed")


async def test_no_secret_is_in_the_history_when_a_database_cannot_be_read(
    tenant: Tenant,
    refresh_starter: RefreshStarter,
    temporal: Client,
    rows: asyncpg.Connection,
) -> None:
    scope = Scope(await add_ods_instance(rows, "North", "host=a-host;username=a-user;password=a-secret"))
    job_id = await tenant.refreshes.request(scope)
    await refresh_starter.start(scope)
    job = await _reached(rows, job_id, "Error")
    assert "could not be read" in job["errormessage"]
    handle = temporal.get_workflow_handle(scope.workflow_id)
    await handle.result()
    told = (await handle.fetch_history()).to_json() + job["errormessage"]
    for secret in ("a-host", "a-user", "a-secret"):
        assert secret not in told
