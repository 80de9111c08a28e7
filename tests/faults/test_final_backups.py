"""Workers and sessions that die at each step of a purge that makes a backup first."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import JobStatus
from ods.model.origins import BackupOrigin
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests import preloaded
from tests.client_programs import suspended
from tests.dumps import filling
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, loads
from tests.servers import make_settings, service_dsn, session

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ ('DATABASE.*' || $1)"
)
_STORED = "SELECT storedid::text FROM adminapi.backups WHERE kind = 'final'"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(
        postgres, registry_dsn, ddl_attempts=4, backup_url=store.as_uri(), backup_verify="never"
    )


@pytest.fixture
async def first(worker_process: WorkerProcess, settings: Settings) -> preloaded.Process:
    return await worker_process.start(settings)


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def filled(
    first: preloaded.Process,
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> AsyncIterator[InstanceJob]:
    """An instance whose dump takes some seconds."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(filling())
    yield job
    for left in await names(admin, job):
        await admin.execute(f'DROP DATABASE "{left}" WITH (FORCE)')


@pytest.fixture
async def trashed(operator: Operator, filled: InstanceJob) -> InstanceJob:
    deletion = await operator.delete(filled)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    return deletion


async def purge_of(operator: Operator, job: InstanceJob) -> InstanceJob:
    requested = (await operator.instances.request_purge(job.instance_id, final_backup=True)).job
    await operator.starter.start(requested)
    return requested


async def names(admin: asyncpg.Connection, job: InstanceJob) -> list[str]:
    found = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1",
        f"%{job.mark}%",
    )
    return [row["datname"] for row in found]


async def killed(worker: preloaded.Process) -> None:
    worker.kill()
    await worker.wait()


async def is_restored(operator: Operator, postgres: EmbeddedPostgres, purge: InstanceJob) -> bool:
    """Whether an instance that is made of the backup has all rows."""
    origin = BackupOrigin(str(purge.makes_backup))
    back = (await operator.instances.reserve(f"{purge.name} back", "Minimal", origin=origin)).job
    await operator.starter.start(back)
    assert await operator.ended(back) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, back.database)) as inside:
        count: int = await inside.fetchval("SELECT count(*) FROM filling")
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'DROP DATABASE "{back.database}" WITH (FORCE)')
    return count == 20000


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
async def test_another_worker_goes_on_when_one_is_killed_while_it_backs_up_or_verifies(
    first: preloaded.Process,
    trashed: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    program: str,
) -> None:
    purge = await purge_of(operator, trashed)
    await suspended(program, first.pid)
    stored = await rows.fetchval(_STORED)
    assert (stored is None) == (program == "pg_dump")
    await killed(first)
    assert await names(admin, trashed) == [trashed.trash_database]
    await worker_process.start(settings)
    assert await operator.ended(purge) is JobStatus.COMPLETED
    assert await names(admin, trashed) == []
    if stored is not None:
        assert await rows.fetchval(_STORED) == stored, "a second backup was made"
    assert await is_restored(operator, postgres, purge)


async def test_no_second_backup_is_made_when_the_worker_is_killed_while_it_drops(
    first: preloaded.Process,
    trashed: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
) -> None:
    purge = await purge_of(operator, trashed)
    restoring = await suspended("pg_restore", first.pid)
    kept = str(trashed.trash_database)
    stored = await rows.fetchval(_STORED)
    async with session(postgres.dsn()) as other:
        holding = other.transaction()
        await holding.start()
        await other.execute(f'ALTER DATABASE "{kept}" CONNECTION LIMIT -1')
        restoring.send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            while not await admin.fetchval(_WAITING, kept):
                await asyncio.sleep(0.01)
        await killed(first)
        await holding.rollback()  # a change that counts would ask for another backup
    await worker_process.start(settings)
    assert await operator.ended(purge) is JobStatus.COMPLETED
    assert await names(admin, trashed) == []
    assert await rows.fetchval(_STORED) == stored, "a second backup was made"
    assert await is_restored(operator, postgres, purge)


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore", "ods instance management"])
async def test_purge_is_done_or_can_be_retried_when_a_session_is_ended_in_the_middle(
    first: preloaded.Process,
    trashed: InstanceJob,
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    program: str,
) -> None:
    """That of a program, or all those of the worker, among them the one that holds the fence."""
    purge = await purge_of(operator, trashed)
    running = await suspended("pg_restore" if program == "pg_restore" else "pg_dump", first.pid)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, $1)",
        program,
    )
    with suppress(psutil.NoSuchProcess):
        running.send_signal(signal.SIGCONT)
    ended = await operator.ended(purge)
    if ended is JobStatus.ERROR:
        assert program == "pg_restore", "pg_dump is tried again"
        assert await names(admin, trashed) == [trashed.trash_database]
        assert await operator.ended(await operator.retry(trashed)) is JobStatus.COMPLETED
    assert await names(admin, trashed) == []
    assert await is_restored(operator, postgres, purge)


async def test_database_is_closed_when_the_purge_is_cancelled_while_no_worker_lives(
    first: preloaded.Process,
    trashed: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
) -> None:
    purge = await purge_of(operator, trashed)
    await suspended("pg_dump", first.pid)
    await killed(first)
    is_open = "SELECT datallowconn FROM pg_database WHERE datname = $1"
    assert await admin.fetchval(is_open, trashed.trash_database)
    await operator.client.get_workflow_handle(purge.workflow_id).cancel()
    await worker_process.start(settings)
    assert await operator.ended(purge) is JobStatus.ERROR

    async def is_closed() -> bool:
        return not await admin.fetchval(is_open, trashed.trash_database)

    await wait_until(is_closed, 30)
    assert await rows.fetchval(_STORED) is None
    assert await names(admin, trashed) == [trashed.trash_database]


async def test_no_session_of_a_suspended_worker_is_left_when_the_purge_is_cancelled(
    first: preloaded.Process,
    trashed: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
) -> None:
    """Otherwise each DROP DATABASE on the server would wait for that of its pg_restore."""
    purge = await purge_of(operator, trashed)
    loading = await loads(admin)
    first.send_signal(signal.SIGSTOP)
    await operator.client.get_workflow_handle(purge.workflow_id).cancel()
    await worker_process.start(settings)
    assert await operator.ended(purge) is JobStatus.ERROR

    async def no_session_is_left() -> bool:
        return not await admin.fetch("SELECT FROM pg_stat_activity WHERE pid = ANY($1)", loading)

    try:
        await wait_until(no_session_is_left, 30)
    finally:  # nothing could be dropped otherwise
        first.send_signal(signal.SIGCONT)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 20) == 0
    assert await names(admin, trashed) == [trashed.trash_database]


async def test_purge_follows_when_the_worker_is_killed_while_it_moves_the_database_to_the_trash(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    delete = Delete(Way.DROP, final_backup=True)
    async with session(postgres.dsn()) as other, other.transaction():
        await other.execute(f'ALTER DATABASE "{filled.database}" CONNECTION LIMIT -1')
        requested = (await operator.instances.request_delete(filled.instance_id, delete)).job
        await operator.starter.start(requested)
        async with asyncio.timeout(20):
            while not await admin.fetchval(_WAITING, filled.database):
                await asyncio.sleep(0.01)
        await killed(first)
    await worker_process.start(settings)
    assert await operator.ended(requested) is JobStatus.COMPLETED

    async def is_purged() -> bool:
        return (await operator.instance(filled)).database.trashed_at is None

    await wait_until(is_purged, 90)
    assert await names(admin, filled) == []
    row = await operator.instance(filled)
    purge = await operator.queries.job(f"PurgeInstanceJob-{row.ods_instance_id}-{requested.number + 1}")
    assert purge is not None
    assert purge.status == JobStatus.COMPLETED
