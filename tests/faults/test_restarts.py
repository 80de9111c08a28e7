"""The server of registry and ODS databases restarts in each step of a snapshot, a reset and a copy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.servers import INSTANCE_PASSWORD, make_settings, service_dsn, session

_LOST = (asyncpg.PostgresError, OSError, asyncpg.InterfaceError)
_ROWS = 42
_HELD = 0x68656C64
"""The advisory lock that the record of a job waits for."""
_HOLD_RECORD = f"""
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock({_HELD}); RETURN NEW; END $$;
CREATE TRIGGER held BEFORE UPDATE ON adminapi.dbinstances
FOR EACH ROW WHEN (NEW.state = 'Completed') EXECUTE FUNCTION held()
"""
# The restore of its index takes a while.
_TABLE = """
CREATE TABLE treasure AS SELECT n FROM generate_series(1, 42) AS n;
CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF n = 1 AND current_database() LIKE 'ods_staging_%' THEN PERFORM pg_sleep(4); END IF;
    RETURN n;
END $$;
CREATE INDEX ON treasure (slow(n))
"""
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ $1"
_RESTORES = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 AND wait_event = 'PgSleep'"
_DATABASES = """
SELECT datname FROM pg_database
WHERE shobj_description(oid, 'pg_database') LIKE '%' || $1 || '%'
      OR datname LIKE '%' || replace($1, '-', '') || '%'
ORDER BY 1
"""

_BEFORE = {
    "lock": "LOCK TABLE treasure",
    "clone": "LOCK TABLE pg_catalog.pg_database IN SHARE MODE",
    "exchange": 'ALTER DATABASE "{database}" CONNECTION LIMIT -1',
    "record": f"SELECT pg_advisory_xact_lock({_HELD})",
}
"""What holds up a job in a step, by the name of that."""
_WAIT = {
    "lock": "LOCK TABLE",
    "clone": "DATABASE",
    "exchange": "ALTER DATABASE.*RENAME",
    "publish": "ALTER DATABASE|COMMENT ON DATABASE",
    "record": "UPDATE",
}
"""What the statement of a job is like that is held up then."""
STEPS = [
    ("snapshot", "lock"),
    ("snapshot", "restore"),
    ("snapshot", "publish"),
    ("snapshot", "record"),
    ("reset", "clone"),
    ("reset", "exchange"),
    ("reset", "record"),
    ("undo", "exchange"),
    ("undo", "record"),
    ("online", "lock"),
    ("online", "restore"),
    ("online", "publish"),
    ("online", "record"),
    ("closed", "clone"),
    ("closed", "record"),
]


@pytest.fixture
def settings(other_postgres: EmbeddedPostgres, other_registry_dsn: str) -> Settings:
    """Registry and ODS databases are on the server that restarts."""
    return make_settings(other_postgres, other_registry_dsn, ddl_attempts=8)


@pytest.fixture
async def reader(other_postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    """The role that the ODS/API connects as."""
    async with session(other_postgres.dsn()) as admin:
        await admin.execute(f"CREATE ROLE ods_api LOGIN PASSWORD '{INSTANCE_PASSWORD}'")
    yield
    async with session(other_postgres.dsn()) as admin:
        for row in await admin.fetch("SELECT datname FROM pg_database WHERE datname LIKE '%_Snapshot_%'"):
            await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
        await admin.execute("DROP ROLE ods_api")


async def _until(admin: asyncpg.Connection, query: str, argument: str) -> None:
    async with asyncio.timeout(30):
        while not await admin.fetchval(query, argument):
            await asyncio.sleep(0.01)


async def _request(operator: Operator, source: InstanceJob, operation: str) -> InstanceJob:
    instances = operator.instances
    match operation:
        case "snapshot":
            job = (await instances.request_snapshot(source.instance_id)).job
        case "reset":
            job = (await instances.request_reset(source.instance_id)).job
        case "undo":
            job = (await instances.request_undo_reset(source.instance_id)).job
        case mode:
            origin = CopyOrigin(source.instance_id, CopyMode(mode))
            name = f"{source.name} copy"
            job = (await instances.reserve(name, source.template, origin=origin)).job
    await operator.starter.start(job)
    return job


@asynccontextmanager
async def _held(
    operator: Operator, server: EmbeddedPostgres, registry_dsn: str, source: InstanceJob, *step: str
) -> AsyncIterator[InstanceJob]:
    """A job that waits in that step while the body runs."""
    operation, which = step
    addresses = {"lock": server.dsn(source.database), "record": registry_dsn}
    async with (
        session(addresses.get(which, server.dsn())) as blocker,
        session(server.dsn()) as admin,
    ):
        if which == "record":
            await blocker.execute(_HOLD_RECORD)
        await blocker.execute("BEGIN")
        await blocker.execute(_BEFORE.get(which, "SELECT 1").format(database=source.database))
        job = await _request(operator, source, operation)
        if which in {"restore", "publish"}:
            await _until(admin, _RESTORES, "pg_restore %")
        if which == "publish":
            staging = owner_of(job).staging_name
            await blocker.execute(f'COMMENT ON DATABASE "{staging}" IS NULL')
        if which in _WAIT:
            await _until(admin, _WAITS, _WAIT[which])
        yield job


async def _databases(server: EmbeddedPostgres, job: InstanceJob) -> list[str]:
    async with session(server.dsn()) as admin:
        return [row["datname"] for row in await admin.fetch(_DATABASES, job.mark)]


async def _count(server: EmbeddedPostgres, database: str) -> int | None:
    """The rows of the source's table; None if there is no such table."""
    async with session(service_dsn(server, database)) as inside:
        if await inside.fetchval("SELECT to_regclass('treasure')") is None:
            return None
        return int(await inside.fetchval("SELECT count(*) FROM treasure"))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(("operation", "step"), STEPS)
async def test_job_is_done_in_the_end_when_the_server_restarts_in_a_step_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    tenant: Tenant,
    other_postgres: EmbeddedPostgres,
    other_registry_dsn: str,
    name: str,
    operation: str,
    step: str,
) -> None:
    await worker_process.start(settings)
    source = await operator.create(name)
    assert await operator.ended(source) is JobStatus.COMPLETED
    async with session(service_dsn(other_postgres, source.database)) as inside:
        await inside.execute(_TABLE)
    if operation == "undo":
        assert await operator.ended(await _request(operator, source, "reset")) is JobStatus.COMPLETED
    with suppress(*_LOST):  # of the sessions that hold it
        async with _held(operator, other_postgres, other_registry_dsn, source, operation, step) as job:
            await other_postgres.stop()
    await other_postgres.start()
    assert await operator.ended(job) is JobStatus.COMPLETED
    expected = [source.database]
    match operation:
        case "snapshot":
            (listed,) = await tenant.snapshots.store.snapshots_of(source.instance_id)
            assert (listed.snapshot.status, listed.current) == ("Completed", True)
            assert await _count(other_postgres, listed.snapshot.database_name) == _ROWS
            expected += [listed.snapshot.database_name]
        case "reset" | "undo":
            assert job.replacement is not None
            expected += [job.trash_database]
        case _:
            assert await _count(other_postgres, job.database) == _ROWS
            assert await _databases(other_postgres, job) == [job.database]
    assert await _count(other_postgres, source.database) == (None if operation == "reset" else _ROWS)
    assert await _databases(other_postgres, source) == expected
