"""The server of the registry and of the ODS databases restarts in the middle of an exchange."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.servers import make_settings, service_dsn, session

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ~ 'ALTER DATABASE.*RENAME'
"""
_MARKED = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 ORDER BY 1"


@pytest.fixture
def settings(other_postgres: EmbeddedPostgres, other_registry_dsn: str) -> Settings:
    """Registry and ODS databases are on the server that restarts."""
    return make_settings(other_postgres, other_registry_dsn, ddl_attempts=8)


async def test_exchange_is_done_in_the_end_when_the_server_restarts_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    other_postgres: EmbeddedPostgres,
    name: str,
) -> None:
    await worker_process.start(settings)
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(other_postgres, job.database)) as tenant:
        await tenant.execute("CREATE TABLE treasure AS SELECT 'old' AS words")
    with suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
        async with session(other_postgres.dsn()) as other, other.transaction():
            await other.execute(f'ALTER DATABASE "{job.database}" CONNECTION LIMIT -1')
            requested = (await operator.instances.request_reset(job.instance_id)).job
            await operator.starter.start(requested)
            async with asyncio.timeout(20), session(other_postgres.dsn()) as admin:
                while not await admin.fetchval(_WAITING):
                    await asyncio.sleep(0.01)
            await other_postgres.stop()
    await other_postgres.start()
    assert await operator.ended(requested) is JobStatus.COMPLETED
    async with session(other_postgres.dsn()) as admin:
        marked = [row["datname"] for row in await admin.fetch(_MARKED, f"%{job.mark}%")]
    assert requested.replacement is not None
    assert marked == [job.database, requested.trash_database]
    async with session(service_dsn(other_postgres, job.database)) as tenant:
        assert await tenant.fetchval("SELECT to_regclass('treasure')") is None
