"""Jobs that no workflow works on any more are found and go on by themselves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

import ods.temporal.schedules
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.settings.settings import Settings
from ods.temporal.schedules import SIZES
from ods.tenants.job_owners import owner_of
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running, passes_are_over
from worker import run


async def test_instance_is_completed_when_its_workflow_was_terminated(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    own_temporal: Client,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(big_settings)
    await passes_are_over(own_temporal)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    await operator.temporal("workflow", "terminate", "--workflow-id", job.workflow_id)
    assert (await operator.instance(job)).status == InstanceStatus.IN_PROGRESS
    await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
    assert await operator.ended(job) is JobStatus.COMPLETED
    instance = await operator.instance(job)
    assert (instance.status, instance.attempt) == (InstanceStatus.COMPLETED, 2)


async def test_running_job_is_left_alone_when_the_pass_comes_by(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    own_temporal: Client,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(big_settings)
    await passes_are_over(own_temporal)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert (await operator.instance(job)).attempt == 1


async def test_deleted_instance_is_gone_when_temporal_lost_its_store(
    operator: Operator, worker_process: WorkerProcess, settings: Settings, own_temporal: Client, name: str
) -> None:
    # A job that has begun, and of which Temporal knows nothing.
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await operator.jobs.begin(job)
    await operator.jobs.finish_create(job, "any")
    deletion = (await operator.instances.request_delete(job.instance_id)).job
    await operator.jobs.begin(deletion)
    await worker_process.start(settings)  # it reconciles at once
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.DELETED


async def test_leftover_of_a_failed_create_is_removed_when_its_clean_up_had_failed(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await operator.jobs.begin(job)
    staging = owner_of(job).staging_name
    await admin.execute(f"CREATE DATABASE {staging} OWNER ods_service")
    await operator.jobs.fail(job, "The server was away.")
    await worker_process.start(settings)
    async with asyncio.timeout(20):
        while await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", staging):
            await asyncio.sleep(0.05)
    assert (await operator.instance(job)).status == InstanceStatus.ERROR


async def test_jobs_and_passes_go_on_when_the_namespace_was_deleted_and_made_anew(
    operator: Operator,
    settings: Settings,
    own_temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", own_temporal.service_client.config.target_host)
    monkeypatch.setattr("worker._NAMESPACE_SECONDS", 1)
    stop = asyncio.Event()
    working = asyncio.create_task(run(settings, stop))
    try:
        await passes_are_over(own_temporal)
        schedules = await _schedules(own_temporal)
        await operator.temporal("operator", "namespace", "delete", "default", "--yes")
        await operator.temporal("operator", "namespace", "create", "default")
        monkeypatch.setattr("ods.temporal.schedules._ensure", _failing_once(SIZES))
        job = (await operator.instances.reserve(name, Template.MINIMAL)).job
        assert await operator.ended(job) is JobStatus.COMPLETED
        async with asyncio.timeout(30):  # the job may be done first, and lists of Temporal lag behind
            while await _schedules(own_temporal) != schedules:
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await working


def _failing_once(name: str) -> Callable[..., Awaitable[None]]:
    """What makes a schedule, but does not reach Temporal when it is to make that one for the first time."""
    ensure, failed = ods.temporal.schedules._ensure, list[str]()  # noqa: SLF001 - it fails here

    async def failing(client: Client, identifier: str, *arguments: Any) -> None:
        if identifier == name and not failed:
            failed.append(name)
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        await ensure(client, identifier, *arguments)

    return failing


async def _schedules(client: Client) -> set[str]:
    """The ids of all schedules."""
    return {one.id async for one in await client.list_schedules()}
