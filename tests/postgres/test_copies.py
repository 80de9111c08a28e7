"""Copies of instances on PostgreSQL: what they hold, and what the source is meanwhile and afterwards."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from ods.backups import copying as contents
from ods.databases import copying
from ods.databases.errors import DatabaseFaultError
from ods.databases.provisioning import CloneRequest
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import Template
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.postgres.postgres_inspection import exists, persistent_sessions, privileges_on, row_of, until
from tests.servers import service_dsn, session

MODES = pytest.mark.parametrize("mode", list(CopyMode))
_WAITS = """
SELECT pid FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND NOT granted
AND objid = (SELECT oid FROM pg_database WHERE datname = $1)
"""
_COPIES = """
SELECT pid FROM pg_stat_activity
WHERE query LIKE 'CREATE DATABASE ods_staging%' AND state = 'active' AND pid <> pg_backend_pid()
"""
NewCopy = Callable[..., Any]


@pytest.fixture
def activities(tenant: Tenant) -> DatabaseActivities:
    return DatabaseActivities(tenant, ConcurrencyLimit(4))


async def provision(activities: DatabaseActivities, job: InstanceJob) -> Any:
    return await ActivityEnvironment().run(activities.provision, job)


@pytest.fixture
async def source(
    activities: DatabaseActivities,
    instances: InstanceStore,
    job_store: JobStore,
    postgres: EmbeddedPostgres,
    name: str,
) -> InstanceJob:
    """An instance with rows of its own, a sequence that has begun, and rights of a role."""
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert (await job_store.begin(job)).held
    assert (await provision(activities, job)).is_recorded
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(
            "CREATE TABLE treasure (id serial PRIMARY KEY, words text);"
            " INSERT INTO treasure (words) SELECT md5(n::text) FROM generate_series(1, 1000) AS n;"
            " CREATE INDEX ON treasure (words); GRANT SELECT ON treasure TO pg_monitor"
        )
    return job


@pytest.fixture
def requested(instances: InstanceStore, job_store: JobStore) -> NewCopy:
    """Requests a copy of a source, and begins its job."""

    async def make(source: InstanceJob, mode: CopyMode, suffix: str = "copy") -> InstanceJob:
        origin = CopyOrigin(source.instance_id, mode)
        job = (await instances.reserve(f"{source.name} {suffix}", source.template, origin=origin)).job
        assert (await job_store.begin(job)).held
        return job

    return make


async def rows_in(postgres: EmbeddedPostgres, database: str) -> list[asyncpg.Record]:
    async with session(service_dsn(postgres, database)) as inside:
        rows: list[asyncpg.Record] = await inside.fetch("SELECT * FROM treasure ORDER BY id")
        return rows


async def database_row(admin: asyncpg.Connection, database: str) -> asyncpg.Record:
    row = await row_of(admin, database)
    assert row is not None
    return row


async def is_open(postgres: EmbeddedPostgres, database: str) -> bool:
    """Whether a new session can begin there, and write."""
    async with asyncio.timeout(20), session(service_dsn(postgres, database)) as inside:
        return await inside.fetchval("INSERT INTO treasure (words) VALUES ('open') RETURNING true") is True


@asynccontextmanager
async def copy_held_up(
    admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> AsyncIterator[asyncpg.Connection]:
    """A session that keeps PostgreSQL from ending a copy of files that it has begun."""
    async with session(postgres.dsn()) as other, other.transaction():
        # Taken by CREATE DATABASE when it has locked the database that it copies.
        await other.execute("LOCK TABLE pg_catalog.pg_database IN SHARE MODE")
        yield other


@MODES
async def test_copy_holds_what_the_source_held_when_it_is_done(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    queries: InstanceQueries,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    mode: CopyMode,
) -> None:
    before = await database_row(admin, source.database)
    held = await rows_in(postgres, source.database)
    job = await requested(source, mode)

    provisioned = await provision(activities, job)

    assert provisioned.is_recorded
    assert (await queries.instance(job.instance_id)).status == "Completed"
    assert await queries.ods_instance(job.ods_instance_id) is not None
    assert await rows_in(postgres, job.database) == held
    assert await database_row(admin, source.database) == before
    copied = await database_row(admin, job.database)
    assert job.mark in copied["comment"]
    assert source.mark not in copied["comment"]
    for column in ("datdba", "encoding", "datlocprovider", "datcollate", "datctype"):
        assert copied[column] == before[column]
    assert await privileges_on(admin, job.database) == await privileges_on(admin, source.database)
    async with session(service_dsn(postgres, job.database)) as inside:
        assert await inside.fetchval("SELECT nextval('treasure_id_seq')") == 1001
        assert await inside.fetchval("SELECT has_table_privilege('pg_monitor', 'treasure', 'SELECT')")
        assert await inside.fetchval("SELECT reltuples FROM pg_class WHERE relname = 'treasure'") == (
            1000 if mode is CopyMode.ONLINE else -1  # the source has no statistics
        )
    assert await is_open(postgres, source.database)
    assert await rows_in(postgres, job.database) == held
    assert not await exists(admin, owner_of(job).staging_name)


@MODES
async def test_copy_gets_settings_and_privileges_of_the_source_when_it_is_published(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    admin: asyncpg.Connection,
    mode: CopyMode,
) -> None:
    await admin.execute(
        f'ALTER DATABASE "{source.database}" SET statement_timeout = 12345;'
        f' REVOKE ALL ON DATABASE "{source.database}" FROM PUBLIC;'
        f' GRANT CONNECT ON DATABASE "{source.database}" TO pg_monitor'
    )
    job = await requested(source, mode)
    await provision(activities, job)
    copied = await database_row(admin, job.database)
    granted = (await database_row(admin, source.database))["datacl"]
    assert sorted(copied["datacl"]) == sorted(granted)
    assert await admin.fetchval(
        "SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = $1 AND setrole = 0", copied["oid"]
    ) == ["statement_timeout=12345"]


async def test_source_is_written_to_when_it_is_copied_online(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = await requested(source, CopyMode.ONLINE)
    pipe = contents._pipe  # noqa: SLF001 - to come when the moment that is copied is over

    async def write_late(*arguments: Any) -> None:
        await user.execute("INSERT INTO treasure (words) VALUES ('late')")
        await pipe(*arguments)

    monkeypatch.setattr(contents, "_pipe", write_late)
    async with session(service_dsn(postgres, source.database)) as user:
        await provision(activities, job)
        assert await user.fetchval("SELECT count(*) FROM treasure") == 1001
    assert len(await rows_in(postgres, job.database)) == 1000


async def test_sessions_are_ended_and_begin_again_when_the_source_is_copied_closed(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    job = await requested(source, CopyMode.CLOSED)
    server = service_dsn(postgres, "postgres").rpartition("/")[0]
    async with session(service_dsn(postgres, source.database)) as user:
        async with persistent_sessions(admin, server, source.database, 3):
            await provision(activities, job)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await user.fetchval("SELECT 1")
    assert await is_open(postgres, source.database)


async def test_new_session_waits_only_some_seconds_when_the_source_is_copied_closed(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "_END_WAITING", copying._END_WAITING.replace("'5s'", "'0.2s'"))  # noqa: SLF001
    job = await requested(source, CopyMode.CLOSED)
    async with copy_held_up(admin, postgres):
        copy = asyncio.create_task(provision(activities, job))
        await until(lambda: admin.fetch(_COPIES))
        with pytest.raises(asyncpg.AdminShutdownError):
            await asyncpg.connect(service_dsn(postgres, source.database), timeout=2)
    await copy
    assert await is_open(postgres, source.database)


async def test_source_is_open_at_once_when_the_session_that_copies_it_is_killed(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    before = await database_row(admin, source.database), await rows_in(postgres, source.database)
    job = await requested(source, CopyMode.CLOSED)
    async with copy_held_up(admin, postgres):
        copy = asyncio.create_task(provision(activities, job))
        await until(lambda: admin.fetch(_COPIES))
        connecting = asyncio.create_task(asyncpg.connect(service_dsn(postgres, source.database)))
        await until(lambda: admin.fetch(_WAITS, source.database))
        await admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({_COPIES}) AS copies")  # noqa: S608 - a constant
        async with asyncio.timeout(2):
            await (await connecting).close()
    with pytest.raises(ApplicationError) as raised:
        await copy
    assert raised.value.type == "Outage"
    after = await database_row(admin, source.database), await rows_in(postgres, source.database)
    assert after == before
    assert (await provision(activities, job)).is_recorded
    assert len(await rows_in(postgres, job.database)) == 1000


async def test_source_is_open_when_a_closed_copy_is_cancelled(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    job = await requested(source, CopyMode.CLOSED)
    async with copy_held_up(admin, postgres):
        copy = asyncio.create_task(provision(activities, job))
        await until(lambda: admin.fetch(_COPIES))
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy
        assert not await admin.fetch(_COPIES)
    assert await is_open(postgres, source.database)
    assert not await exists(admin, owner_of(job).staging_name)


@MODES
async def test_nothing_is_copied_when_the_operator_has_closed_the_source(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    admin: asyncpg.Connection,
    mode: CopyMode,
) -> None:
    await admin.execute(f'ALTER DATABASE "{source.database}" ALLOW_CONNECTIONS false')
    job = await requested(source, mode)
    with pytest.raises(ApplicationError, match="accepts no connections") as raised:
        await provision(activities, job)
    assert raised.value.non_retryable
    assert not (await database_row(admin, source.database))["datallowconn"]
    assert not await exists(admin, owner_of(job).staging_name)


@MODES
async def test_nothing_is_copied_when_the_database_is_not_the_sources(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    admin: asyncpg.Connection,
    mode: CopyMode,
) -> None:
    await admin.execute(f'COMMENT ON DATABASE "{source.database}" IS NULL')
    job = await requested(source, mode)
    with pytest.raises(ApplicationError, match="with the mark of the instance that is copied"):
        await provision(activities, job)
    assert not await exists(admin, job.database)


@MODES
async def test_nothing_is_published_when_another_database_gets_the_sources_name_meanwhile(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    mode: CopyMode,
) -> None:
    found = copying._found  # noqa: SLF001 - to come between copy and publication
    calls: list[Any] = []

    async def exchanged(*arguments: Any) -> Any:
        calls.append(arguments)
        answer = await found(*arguments)
        return answer if len(calls) == 1 else ("another", *answer[1:])

    monkeypatch.setattr(copying, "_found", exchanged)
    job = await requested(source, mode)
    with pytest.raises(ApplicationError, match="nothing was published") as raised:
        await provision(activities, job)
    assert not raised.value.non_retryable
    assert not await exists(admin, job.database)
    assert not await exists(admin, owner_of(job).staging_name)


async def test_programs_have_ended_when_an_online_copy_is_cancelled(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    job = await requested(source, CopyMode.ONLINE)
    async with session(postgres.dsn(source.database)) as other, other.transaction():
        await other.execute("LOCK TABLE treasure")  # pg_dump waits for it
        copy = asyncio.create_task(provision(activities, job))
        await until(lambda: _sessions_of(admin, source.database), 10)
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy
        assert await _sessions_of(admin, source.database) == 0
    assert await is_open(postgres, source.database)


async def test_only_the_service_may_connect_to_a_copy_when_not_everyone_may_connect_to_its_source(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    may_connect = "SELECT has_database_privilege('pg_monitor', datname, 'CONNECT') FROM pg_database"
    its = f"{may_connect} WHERE datname = $1"
    await admin.execute(f'REVOKE ALL ON DATABASE "{source.database}" FROM PUBLIC')
    job = await requested(source, CopyMode.ONLINE)
    async with session(postgres.dsn(source.database)) as other, other.transaction():
        await other.execute("LOCK TABLE treasure")
        copy = asyncio.create_task(provision(activities, job))
        await until(lambda: _sessions_of(admin, source.database), 10)
        assert await admin.fetchval(its, owner_of(job).staging_name) is False
    await copy
    assert await admin.fetchval(its, job.database) is False


async def _sessions_of(admin: asyncpg.Connection, database: str) -> int:
    """Sessions on the database that wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
    count: int = await admin.fetchval(query, database)
    return count


@pytest.mark.parametrize("victim", ["pg_dump", "pg_restore"])
async def test_copy_fails_and_can_be_tried_again_when_the_session_of_a_program_is_killed(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    victim: str,
) -> None:
    job = await requested(source, CopyMode.ONLINE)
    # By the server itself, for the session of a small dump is over before a client has asked twice.
    kill = f"""
    DO $$ BEGIN LOOP
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE starts_with(application_name, '{victim}') AND state IS NOT NULL;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.001), pg_stat_clear_snapshot();
    END LOOP; END $$
    """
    copy = asyncio.create_task(provision(activities, job))
    await admin.execute(kill, timeout=30)
    with pytest.raises(ApplicationError, match="has failed"):
        await copy
    assert not await exists(admin, job.database)
    assert (await provision(activities, job)).is_recorded
    assert len(await rows_in(postgres, job.database)) == 1000


async def test_copy_is_found_again_when_its_outcome_did_not_reach_temporal(
    activities: DatabaseActivities,
    source: InstanceJob,
    requested: NewCopy,
    admin: asyncpg.Connection,
) -> None:
    job = await requested(source, CopyMode.ONLINE)
    await provision(activities, job)
    published = await row_of(admin, job.database)
    assert (await provision(activities, job)).is_recorded
    assert await row_of(admin, job.database) == published


async def test_no_copy_is_left_waiting_when_its_second_session_does_not_begin(
    server: Server, wanted: CloneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the job is cancelled then: Python would warn of a copy that was never begun."""

    def away() -> None:
        raise DatabaseFaultError("The server is away.", outage=True)

    async with server.session() as own:
        monkeypatch.setattr(server, "session", away)
        with pytest.raises(DatabaseFaultError, match="is away"):
            await copying.copy_closed(server, own, wanted)
    gc.collect()
