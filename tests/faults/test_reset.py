"""Workers that are killed in the middle of a reset and of its undo, and servers that restart meanwhile."""

import asyncio

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running
from tests.servers import service_dsn, session

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ~ 'ALTER DATABASE.*RENAME'
"""
_MARKED = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 ORDER BY 1"


async def _names(admin: asyncpg.Connection, mark: str) -> list[str]:
    return [row["datname"] for row in await admin.fetch(_MARKED, f"%{mark}%")]


async def _words(postgres: EmbeddedPostgres, database: str) -> str | None:
    async with session(service_dsn(postgres, database)) as tenant:
        if await tenant.fetchval("SELECT to_regclass('treasure')") is None:
            return None
        words: str = await tenant.fetchval("SELECT words FROM treasure")
        return words


async def _created(operator: Operator, postgres: EmbeddedPostgres, name: str) -> InstanceJob:
    """An instance with a row of data by which its database is told from a fresh one."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as tenant:
        await tenant.execute("CREATE TABLE treasure AS SELECT 'old' AS words")
    return job


async def _start(operator: Operator, job: InstanceJob, kind: str) -> InstanceJob:
    instances = operator.instances
    request = instances.request_reset if kind == "Reset" else instances.request_undo_reset
    requested = (await request(job.instance_id)).job
    await operator.starter.start(requested)
    return requested


async def _until(admin: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(20):
        while not await admin.fetchval(condition):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["Reset", "UndoReset"])
@pytest.mark.parametrize("killed", ["worker", "backend"])
async def test_exchange_is_done_in_the_end_when_one_is_killed_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    kind: str,
    killed: str,
) -> None:
    worker = await worker_process.start(settings)
    job = await _created(operator, postgres, name)
    if kind == "UndoReset":
        assert await operator.ended(await _start(operator, job, "Reset")) is JobStatus.COMPLETED
    async with session(postgres.dsn()) as other, other.transaction():
        # The exchange waits for this change of the catalogue's row.
        await other.execute(f'ALTER DATABASE "{job.database}" CONNECTION LIMIT -1')
        requested = await _start(operator, job, kind)
        await _until(admin, _WAITING)
        if killed == "worker":
            worker.kill()
            await worker.wait()
        else:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query ~ 'ALTER DATABASE.*RENAME'"
            )
    if killed == "worker":
        await worker_process.start(settings)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    assert requested.replacement is not None
    assert await _names(admin, job.mark) == [job.database, requested.trash_database]
    expected = None if kind == "Reset" else "old"
    assert await _words(postgres, job.database) == expected


async def test_fresh_database_is_made_by_another_worker_when_one_is_killed_while_it_clones(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    worker = await worker_process.start(big_settings)
    job = await _created(operator, postgres, name)
    requested = (await operator.instances.request_reset(job.instance_id, "Sample")).job
    await operator.starter.start(requested)
    await clone_is_running(admin)
    worker.kill()
    await worker.wait()
    assert await _words(postgres, job.database) == "old"
    await worker_process.start(big_settings)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    assert requested.replacement is not None
    assert await _names(admin, job.mark) == [job.database, requested.trash_database]
    async with session(service_dsn(postgres, job.database)) as tenant:
        assert await tenant.fetchval("SELECT count(*) FROM bulk") == 250_000
