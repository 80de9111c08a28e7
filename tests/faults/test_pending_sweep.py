"""Rows whose workflows were not started are found by the sweep."""

import asyncio
from datetime import timedelta

from temporalio.client import Client, ScheduleActionStartWorkflow, ScheduleDescription
from temporalio.service import RPCError

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.settings.settings import Settings
from ods.temporal.schedules import PENDING_SWEEP
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, passes_are_over
from tests.servers import make_settings


async def _described(client: Client) -> ScheduleDescription:
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.get_schedule_handle(PENDING_SWEEP).describe()
            except RPCError:
                await asyncio.sleep(0.05)


async def test_waiting_rows_are_completed_when_a_worker_starts(
    operator: Operator, worker_process: WorkerProcess, settings: Settings, name: str
) -> None:
    created = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await worker_process.start(settings)
    assert await operator.ended(created) is JobStatus.COMPLETED


async def test_waiting_rows_are_completed_when_the_schedule_is_triggered(
    operator: Operator, worker_process: WorkerProcess, settings: Settings, own_temporal: Client, name: str
) -> None:
    await worker_process.start(settings)
    await passes_are_over(own_temporal)
    created = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await operator.temporal("schedule", "trigger", "--schedule-id", "pending-sweep")
    assert await operator.ended(created) is JobStatus.COMPLETED
    deleted = (await operator.instances.request_delete(created.instance_id)).job
    await operator.temporal("schedule", "trigger", "--schedule-id", "pending-sweep")
    assert await operator.ended(deleted) is JobStatus.COMPLETED


async def test_failed_job_goes_on_when_its_retry_was_left_to_the_sweep(
    operator: Operator,
    worker_process: WorkerProcess,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    settings: Settings,
    own_temporal: Client,
    name: str,
) -> None:
    broken = make_settings(postgres, registry_dsn, task_queue=settings.task_queue, minimal_template="Nowhere")
    first = await worker_process.start(broken)
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.ERROR
    first.terminate()
    await first.wait()
    # The retry is committed, but never reached Temporal, where the workflow waits for a decision.
    await operator.instances.request_retry(created.instance_id)
    await worker_process.start(settings)
    assert await operator.ended(created) is JobStatus.COMPLETED
    assert (await operator.instance(created)).status == InstanceStatus.COMPLETED


async def test_interval_follows_the_setting_when_a_worker_starts(
    worker_process: WorkerProcess,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    settings: Settings,
    own_temporal: Client,
) -> None:
    first = await worker_process.start(settings)
    spec = (await _described(own_temporal)).schedule.spec
    assert [interval.every for interval in spec.intervals] == [timedelta(hours=2)]
    first.terminate()
    await first.wait()
    await own_temporal.get_schedule_handle(PENDING_SWEEP).pause()

    changed = make_settings(postgres, registry_dsn, task_queue=settings.task_queue, sweep_interval=90)
    await worker_process.start(changed)
    async with asyncio.timeout(20):
        while (await _described(own_temporal)).schedule.spec.intervals[0].every != timedelta(seconds=90):
            await asyncio.sleep(0.05)
    schedule = (await _described(own_temporal)).schedule
    assert schedule.policy.catchup_window == timedelta(seconds=180)
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    assert schedule.action.execution_timeout == timedelta(days=7)
    assert schedule.state.paused, "the operator who paused the schedule meant it"
