"""Workers and sessions that are killed in the middle of each step of a snapshot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.servers import service_dsn, session

pytestmark = pytest.mark.usefixtures("ods_api")

_TABLE = "CREATE TABLE treasure AS SELECT n FROM generate_series(1, 42) AS n"
# The restore of its index takes as long as the table slow_restore.keep has a row that says so.
_SLOW = """
CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF n = 1 AND current_database() LIKE 'ods_staging_%' THEN PERFORM pg_sleep(6); END IF;
    RETURN n;
END $$;
CREATE INDEX ON treasure (slow(n))
"""
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ $1"
_RESTORING = """
SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_restore %' AND wait_event = 'PgSleep'
"""
_PROGRAMS = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^pg_(dump|restore) '"
STEPS = ["the table is locked", "the copy is restored", "it is published", "it is recorded"]


async def _until(admin: asyncpg.Connection, query: str, *arguments: str, is_there: bool = True) -> None:
    async with asyncio.timeout(30):
        while bool(await admin.fetchval(query, *arguments)) is not is_there:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _held(
    step: str,
    operator: Operator,
    job: InstanceJob,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    admin: asyncpg.Connection,
) -> AsyncIterator[InstanceJob]:
    """A snapshot of the instance of `job`, whose job is held in that step while the body runs."""
    owner = owner_of(job)
    async with AsyncExitStack() as stack:
        if step == STEPS[0]:
            other = await stack.enter_async_context(session(service_dsn(postgres, job.database)))
            await stack.enter_async_context(other.transaction())
            await other.execute("LOCK TABLE treasure")
        requested = (await operator.instances.request_snapshot(job.instance_id)).job
        if step == STEPS[3]:
            registry = await stack.enter_async_context(session(registry_dsn))
            await operator.starter.start(requested)
            assert await operator.reached(requested, {JobStatus.IN_PROGRESS}) is JobStatus.IN_PROGRESS
            await stack.enter_async_context(registry.transaction())
            await registry.execute("SELECT FROM adminapi.dbinstances FOR UPDATE")
            there = "SELECT count(*) FROM pg_database WHERE datname LIKE $1"
            await _until(admin, there, f"{job.database}_Snapshot_%")
        else:
            await operator.starter.start(requested)
        if step == STEPS[0]:
            await _until(admin, _WAITING, "^LOCK TABLE")
        if step in STEPS[1:3]:
            await _until(admin, _RESTORING)
        if step == STEPS[2]:
            blocker = await stack.enter_async_context(session(postgres.dsn()))
            await stack.enter_async_context(blocker.transaction())
            await blocker.execute(f'COMMENT ON DATABASE "{owner.staging_name}" IS NULL')
            await _until(admin, _WAITING, "GRANT CONNECT ON DATABASE")
        yield requested


async def _databases(admin: asyncpg.Connection, job: InstanceJob) -> list[str]:
    found = await admin.fetch(
        "SELECT datname FROM pg_database WHERE datname LIKE $1 OR datname LIKE $2 ORDER BY datname",
        f"{job.database}%",
        f"%{job.mark.replace('-', '')}%",
    )
    return [row["datname"] for row in found]


async def _created(operator: Operator, postgres: EmbeddedPostgres, name: str, *, slow: bool) -> InstanceJob:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(_TABLE)
        if slow:
            await inside.execute(_SLOW)
    return job


async def _is_whole(
    tenant: Tenant, postgres: EmbeddedPostgres, admin: asyncpg.Connection, job: InstanceJob
) -> None:
    """Check that the only snapshot of the instance holds all of it, and that nothing else is left."""
    (listed,) = await tenant.snapshots.store.snapshots_of(job.instance_id)
    assert (listed.snapshot.status, listed.current) == ("Completed", True)
    assert await _databases(admin, job) == [job.database, listed.snapshot.database_name]
    async with session(service_dsn(postgres, listed.snapshot.database_name)) as copy:
        assert await copy.fetchval("SELECT count(*) FROM treasure") == 42


@pytest.mark.parametrize("step", STEPS)
async def test_snapshot_is_made_by_another_worker_when_one_is_killed_while(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
    step: str,
) -> None:
    first = await worker_process.start(settings)
    job = await _created(operator, postgres, name, slow=step in STEPS[1:3])
    async with _held(step, operator, job, postgres, registry_dsn, admin) as requested:
        first.kill()
        await first.wait()
    await _until(admin, _PROGRAMS, is_there=False)  # none goes on without its worker
    await worker_process.start(settings)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    await _is_whole(tenant, postgres, admin, job)


async def test_snapshot_is_made_when_the_session_of_pg_restore_is_ended(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    job = await _created(operator, postgres, name, slow=True)
    async with _held(STEPS[1], operator, job, postgres, registry_dsn, admin) as requested:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'pg_restore %'"
        )
        assert await operator.ended(requested) is JobStatus.COMPLETED
    await _is_whole(tenant, postgres, admin, job)


async def test_snapshot_is_made_when_the_server_ends_all_sessions(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    job = await _created(operator, postgres, name, slow=True)
    async with _held(STEPS[1], operator, job, postgres, registry_dsn, admin) as requested:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ($1, $2)".replace(
                "($1, $2)", f"('{job.database}', '{owner_of(job).staging_name}')"
            )
        )
        assert await operator.ended(requested) is JobStatus.COMPLETED
    await _is_whole(tenant, postgres, admin, job)
