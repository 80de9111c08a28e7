"""A job that is cancelled in the middle of its work, by a worker process that then may be killed."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from embedded.polling import wait_until
from registry.instances.status import InstanceStatus, JobStatus, Template
from settings import Settings
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running


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
