import asyncio
import signal
import time

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running
from tests.postgres.postgres_inspection import databases_of
from tests.servers import session


@pytest.mark.timed
async def test_new_worker_completes_the_instance_when_one_is_killed_in_the_middle_of_a_clone(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    first = await worker_process.start(big_settings)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    first.kill()
    killed = time.monotonic()
    await first.wait()
    await worker_process.start(big_settings)
    assert await operator.ended(job) is JobStatus.COMPLETED
    took = time.monotonic() - killed
    assert took < big_settings.heartbeat_timeout + 5, f"took {took:.1f} s"
    assert await databases_of(admin, job.mark) == {job.database}


async def test_delete_is_completed_when_the_worker_is_killed_after_the_request(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    first = await worker_process.start(settings)
    job = await operator.create(name)
    await operator.ended(job)
    deletion = await operator.delete(job)
    first.kill()
    await first.wait()
    await worker_process.start(settings)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.DELETED
    assert await databases_of(admin, job.mark) == {deletion.trash_database}


async def test_late_worker_changes_nothing_when_it_was_paused_in_the_middle_of_a_clone(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    paused = await worker_process.start(big_settings)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    paused.send_signal(signal.SIGSTOP)
    await worker_process.start(big_settings)
    assert await operator.ended(job) is JobStatus.COMPLETED
    published = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database)
    paused.send_signal(signal.SIGCONT)
    # The paused worker is awake again when it has ended in good order at our request.
    paused.terminate()
    assert await asyncio.wait_for(paused.wait(), 20) == 0
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
    assert await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database) == published
    assert await databases_of(admin, job.mark) == {job.database}


async def test_running_clone_is_finished_when_the_worker_is_told_to_stop(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    first = await worker_process.start(big_settings)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), big_settings.shutdown_timeout + 2) == 0
    # The clone was finished before the worker ended: what is left for the next one is a status to write.
    assert await databases_of(admin, job.mark) == {job.database}
    await worker_process.start(big_settings)
    assert await operator.ended(job) is JobStatus.COMPLETED


async def test_new_worker_completes_the_rename_when_one_is_killed_while_it_waits_for_the_server(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    first = await worker_process.start(settings)
    created = await operator.create(name)
    await operator.ended(created)
    async with session(postgres.dsn()) as other:
        await other.execute("BEGIN")
        await other.execute(f'COMMENT ON DATABASE "{created.database}" IS NULL')  # holds the rename up
        job = await operator.rename(created, f"{name} new")
        async with asyncio.timeout(20):
            while not await admin.fetch(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE query LIKE 'ALTER DATABASE%RENAME%' AND state = 'active'"
            ):
                await asyncio.sleep(0.01)
        first.kill()
        await first.wait()
        await worker_process.start(settings)
        await other.execute("ROLLBACK")
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert (await operator.instance(job)).name == f"{name} new"
    assert await databases_of(admin, job.mark) == {job.final_database}
