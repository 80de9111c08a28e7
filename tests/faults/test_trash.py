"""Workers that are killed in the middle of each step of the trash, and outages while it is worked on."""

import asyncio

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import JobStatus
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import Requested
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.servers import session

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ~ ('(ALTER|DROP) DATABASE.*' || $1)
"""


async def _names(admin: asyncpg.Connection, mark: str) -> list[str]:
    found = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1", f"%{mark}%"
    )
    return [row["datname"] for row in found]


async def _requested(operator: Operator, job: InstanceJob, kind: str) -> Requested:
    if kind == "Undelete":
        return await operator.instances.request_undelete(job.instance_id)
    way = {"Trash": None, "Detach": Way.LEAVE, "Purge": Way.DROP}[kind]
    return await operator.instances.request_delete(job.instance_id, Delete(way))


@pytest.mark.parametrize("kind", ["Trash", "Detach", "Undelete", "Purge"])
async def test_job_is_done_by_another_worker_when_one_is_killed_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    kind: str,
) -> None:
    first = await worker_process.start(settings)
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    in_trash = kind in {"Undelete", "Purge"}
    if in_trash:
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.COMPLETED
    (current,) = await _names(admin, job.mark)
    async with session(postgres.dsn()) as other, other.transaction():
        await other.execute(f'ALTER DATABASE "{current}" CONNECTION LIMIT -1')
        requested = (await _requested(operator, job, kind)).job
        await operator.starter.start(requested)
        async with asyncio.timeout(20):
            while not await admin.fetchval(_WAITING, current):
                await asyncio.sleep(0.01)
        first.kill()
        await first.wait()
    await worker_process.start(settings)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    row = await operator.instance(job)
    expected = {
        "Trash": ("Deleted", True, [requested.trash_database]),
        "Detach": ("Deleted", False, []),
        "Undelete": ("Completed", False, [job.database]),
        "Purge": ("Deleted", False, []),
    }
    assert (row.status, row.is_in_trash, await _names(admin, job.mark)) == expected[kind]
    left = await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", job.database)
    assert left == (kind in {"Detach", "Undelete"})
    if kind == "Detach":
        await admin.execute(f'DROP DATABASE "{job.database}"')
