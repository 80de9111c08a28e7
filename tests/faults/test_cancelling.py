"""A job that is cancelled in the middle of its work, by a worker process that then may be killed."""

from collections.abc import AsyncIterator
from contextlib import nullcontext

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from embedded.polling import wait_until
from registry.instances.status import InstanceStatus, JobStatus, Operation, Template
from settings import Settings
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_held_until_interrupted, clone_is_running


@pytest.fixture
async def api(settings: Settings, own_temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that reaches Temporal."""
    address = own_temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


@pytest.mark.parametrize("killed", [False, True])
async def test_half_a_clone_is_removed_when_the_create_is_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    name: str,
    *,
    killed: bool,
) -> None:
    worker = await worker_process.start(big_settings)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    async with nullcontext() if killed else clone_held_until_interrupted(admin):
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
    if killed:
        worker.kill()
        await worker.wait()
        await worker_process.start(big_settings)
    assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    assert (instance.status, instance.error_message) == (InstanceStatus.ERROR, "The job was cancelled.")

    async def is_removed() -> bool:
        return not await admin.fetch(
            "SELECT 1 FROM pg_database WHERE datname IN ($1, $2)",
            job.database,
            f"ods_staging_{job.mark.replace('-', '')}",
        )

    await wait_until(is_removed, 30)


@pytest.mark.parametrize("operation", [Operation.RENAME, Operation.DELETE])
async def test_database_is_left_when_the_worker_is_killed_after_the_job_was_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    name: str,
    operation: Operation,
) -> None:
    worker = await worker_process.start(settings)
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.COMPLETED
    async with admin.transaction():  # which the step waits for, and its session still does when it is killed
        await admin.execute(f'ALTER DATABASE "{created.database}" CONNECTION LIMIT -1')
        renames = operation is Operation.RENAME
        job = await (operator.rename(created, f"{name} new") if renames else operator.delete(created))
        await _step_waits(admin, created.database)
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
        worker.kill()
        await worker.wait()
        await worker_process.start(settings)
        assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    expected = InstanceStatus.ERROR if renames else InstanceStatus.DELETE_FAILED
    assert (instance.status, instance.error_message) == (expected, "The job was cancelled.")
    assert await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", created.database)
    again = await (operator.rename(created, f"{name} newer") if renames else operator.delete(created))
    assert await operator.ended(again) is JobStatus.COMPLETED
    assert not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", created.database)


async def _step_waits(admin: asyncpg.Connection, database: str) -> None:
    """Wait until a statement of a worker waits for the lock on the database."""

    async def waits() -> bool:
        await admin.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees the same until then
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
        return bool(await admin.fetch(query, f'ALTER DATABASE "{database}" %'))

    await wait_until(waits, 20)
