"""The server restarts in the middle of a copy: the source is as it was, and the copy is made."""

import asyncio

import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.model.origins import CopyMode, CopyOrigin
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.servers import make_settings, service_dsn, session

_IN_THE_MIDDLE = {
    # What each waits for, when it has begun.
    CopyMode.CLOSED: "LOCK TABLE pg_catalog.pg_database IN SHARE MODE",
    CopyMode.ONLINE: "LOCK TABLE treasure",
}
_WAITS = """
SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'ods%'
"""


@pytest.fixture
def settings(other_postgres: EmbeddedPostgres, other_registry_dsn: str) -> Settings:
    """Registry and ODS databases are on the server that restarts."""
    return make_settings(other_postgres, other_registry_dsn, ddl_attempts=4)


async def _is_in_the_middle(server: EmbeddedPostgres) -> None:
    async with asyncio.timeout(20), session(server.dsn()) as watching:
        while not await watching.fetch(_WAITS):
            await asyncio.sleep(0.01)


async def _count(postgres: EmbeddedPostgres, database: str) -> int:
    async with session(service_dsn(postgres, database)) as inside:
        return int(await inside.fetchval("SELECT count(*) FROM treasure"))


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_source_is_usable_and_the_copy_is_made_when_the_server_restarts_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    other_postgres: EmbeddedPostgres,
    name: str,
    mode: CopyMode,
) -> None:
    await worker_process.start(settings)
    source = await operator.create(name)
    assert await operator.ended(source) is JobStatus.COMPLETED
    async with session(service_dsn(other_postgres, source.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT n FROM generate_series(1, 1000) AS n")
    async with session(
        other_postgres.dsn(source.database if mode is CopyMode.ONLINE else "postgres")
    ) as other:
        holding = other.transaction()
        await holding.start()
        await other.execute(_IN_THE_MIDDLE[mode])
        origin = CopyOrigin(source.instance_id, mode)
        requested = await operator.instances.reserve(f"{name} copy", source.template, origin=origin)
        await operator.starter.start(requested.job)
        await _is_in_the_middle(other_postgres)
        await other_postgres.stop()
    await other_postgres.start()
    assert await _count(other_postgres, source.database) == 1000
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    assert await _count(other_postgres, requested.job.database) == 1000
    assert await _count(other_postgres, source.database) == 1000
