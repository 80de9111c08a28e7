"""Workers that are killed or paused in the middle of a copy: the source is usable, and the copy is made."""

import asyncio
import signal
import time

import asyncpg
import psutil
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_held_until_interrupted, clone_is_running
from tests.postgres.postgres_inspection import databases_of
from tests.servers import service_dsn, session

ROWS = 250_000
OPENS_WITHIN = 5
"""Seconds; the claim is a minute."""


async def _source(operator: Operator, name: str) -> InstanceJob:
    """An instance whose copy takes long enough to be interrupted."""
    source = await operator.create(name, Template.SAMPLE)
    assert await operator.ended(source) is JobStatus.COMPLETED
    return source


async def _copy(operator: Operator, source: InstanceJob, mode: CopyMode) -> InstanceJob:
    origin = CopyOrigin(source.instance_id, mode)
    requested = await operator.instances.reserve(f"{source.name} copy", source.template, origin=origin)
    await operator.starter.start(requested.job)
    return requested.job


async def _count(postgres: EmbeddedPostgres, database: str) -> int:
    async with session(service_dsn(postgres, database)) as inside:
        return int(await inside.fetchval("SELECT count(*) FROM bulk"))


async def _restore_is_running(admin: asyncpg.Connection) -> None:
    async with asyncio.timeout(20):
        while not await admin.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pg_restore %' AND query LIKE 'COPY%'"
        ):
            await asyncio.sleep(0.002)


async def _is_running(admin: asyncpg.Connection, mode: CopyMode) -> None:
    await (clone_is_running(admin) if mode is CopyMode.CLOSED else _restore_is_running(admin))


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_source_is_usable_and_the_copy_is_made_when_a_worker_is_killed_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    mode: CopyMode,
) -> None:
    first = await worker_process.start(big_settings)
    source = await _source(operator, name)
    copy = await _copy(operator, source, mode)
    await _is_running(admin, mode)
    children = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    killed = time.monotonic()
    await first.wait()
    assert await _count(postgres, source.database) == ROWS
    assert time.monotonic() - killed < OPENS_WITHIN
    gone, alive = psutil.wait_procs(children, 5)
    assert (len(gone), alive) == (2 if mode is CopyMode.ONLINE else 0, [])

    await worker_process.start(big_settings)
    assert await operator.ended(copy) is JobStatus.COMPLETED
    assert await databases_of(admin, copy.mark) == {copy.database}
    assert await _count(postgres, copy.database) == await _count(postgres, source.database) == ROWS


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_late_worker_changes_nothing_when_it_was_paused_in_the_middle_of_a_copy(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    mode: CopyMode,
) -> None:
    paused = await worker_process.start(big_settings)
    source = await _source(operator, name)
    copy = await _copy(operator, source, mode)
    await _is_running(admin, mode)
    stopped = [psutil.Process(paused.pid), *psutil.Process(paused.pid).children(recursive=True)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    await worker_process.start(big_settings)
    assert await operator.ended(copy) is JobStatus.COMPLETED
    published = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", copy.database)
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    paused.terminate()
    assert await asyncio.wait_for(paused.wait(), 20) == 0
    assert await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", copy.database) == published
    assert await databases_of(admin, copy.mark) == {copy.database}
    assert await _count(postgres, copy.database) == ROWS


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_copy_is_undone_and_the_source_free_when_its_job_is_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    mode: CopyMode,
) -> None:
    worker = await worker_process.start(big_settings)
    source = await _source(operator, name)
    copy = await _copy(operator, source, mode)
    await _is_running(admin, mode)
    workflow = operator.client.get_workflow_handle(copy.workflow_id)
    match mode:
        case CopyMode.CLOSED:
            # Files are copied sooner than a cancellation arrives.
            async with clone_held_until_interrupted(admin):
                await workflow.cancel()
        case CopyMode.ONLINE:
            await workflow.cancel()
    assert await operator.ended(copy) is JobStatus.ERROR
    assert await _count(postgres, source.database) == ROWS
    async with asyncio.timeout(20):
        while await databases_of(admin, copy.mark):
            await asyncio.sleep(0.01)
    assert psutil.Process(worker.pid).children(recursive=True) == []
    deletion = await operator.delete(source)
    assert await operator.ended(deletion) is JobStatus.COMPLETED


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_copy_is_made_when_the_sessions_of_the_service_are_ended_in_the_middle_of_it(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    mode: CopyMode,
) -> None:
    await worker_process.start(big_settings)
    source = await _source(operator, name)
    copy = await _copy(operator, source, mode)
    await _is_running(admin, mode)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE (pid <> pg_backend_pid() AND datname LIKE '%_staging_%')"
        " OR query LIKE 'CREATE DATABASE ods_staging%' OR application_name LIKE 'pg_dump %'"
    )
    assert await operator.ended(copy) is JobStatus.COMPLETED
    assert await _count(postgres, copy.database) == await _count(postgres, source.database) == ROWS
    assert await databases_of(admin, copy.mark) == {copy.database}
