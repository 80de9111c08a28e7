"""What is told of a job while its workflow is open, asked of a real server of Temporal."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.embedded.polling import wait_until
from ods.registry.instances.jobs import InstanceJob
from ods.temporal.job_executions import JobExecution, JobExecutions
from tests.workflows.script import Script, refused
from workflows.job_workflow import WORKFLOW_TYPES


@pytest.fixture
def client(temporal: Client) -> Client:
    """The server that skips time does not tell the newest events."""
    return temporal


@pytest.fixture
async def handle(client: Client, queue: str, job: InstanceJob) -> AsyncIterator[Callable[..., Any]]:
    """Starts the workflow of the job."""
    started: list[WorkflowHandle[Any, Any]] = []

    async def start() -> None:
        workflow = WORKFLOW_TYPES[job.operation]
        started.append(await client.start_workflow(workflow, job, id=job.workflow_id, task_queue=queue))

    yield start
    for handle in started:
        await handle.terminate()


async def told_once(
    client: Client, job: InstanceJob, condition: Callable[[JobExecution], object]
) -> JobExecution:
    """What is told as soon as the condition holds."""
    told: list[JobExecution] = []

    async def holds() -> bool:
        execution = await JobExecutions(client).find(job)
        if execution is None or not condition(execution):
            return False
        told.append(execution)
        return True

    await wait_until(holds, 20)
    return told[0]


async def test_the_step_is_told_when_a_worker_is_at_it(
    client: Client, job: InstanceJob, script: Script, handle: Callable[..., Any]
) -> None:
    script.holds["provision"] = asyncio.Event().wait
    await handle()
    told = await told_once(client, job, lambda one: any(step.is_running for step in one.steps))
    (step,) = told.steps
    assert (step.name, step.tries, step.next_try_at, step.last_failure) == ("provision", 1, None, None)
    assert (told.attempt, told.last_failed, told.waits_until) == (1, None, None)
    assert await JobExecutions(client).find(replace(job, attempt=2)) is None, "it is another attempt"
    other = replace(job, ods_instance_id=job.ods_instance_id + 1_000_000_000)
    assert await JobExecutions(client).find(other) is None, "no workflow is open"


async def test_the_kind_of_the_failure_and_the_next_try_are_told_when_the_workflow_pauses(
    client: Client, job: InstanceJob, script: Script, handle: Callable[..., Any]
) -> None:
    away = ApplicationError("The server is away.", type="Outage")
    script.faults["provision"] = [away] * 50
    await handle()
    told = await told_once(client, job, lambda one: one.last_failed and one.waits_until)
    assert told.last_failed is not None
    assert (told.last_failed.name, told.last_failed.kind) == ("provision", "Outage")
    assert told.waits_until is not None
    assert timedelta(0) < told.waits_until - told.last_failed.at < timedelta(seconds=15)


async def test_tries_are_counted_and_no_text_is_told_when_temporal_tries_a_step_again(
    client: Client, job: InstanceJob, script: Script, handle: Callable[..., Any]
) -> None:
    script.faults["finish"] = [ValueError("hidden")] * 50
    await handle()
    told = await told_once(client, job, lambda one: any(step.next_try_at for step in one.steps))
    (step,) = told.steps
    assert step.name == "finish"
    assert step.tries > 1
    assert not step.is_running
    assert step.last_failure == "ValueError"
    assert "hidden" not in repr(told)


async def test_the_end_of_the_decision_window_is_told_when_the_job_has_failed(
    client: Client, job: InstanceJob, script: Script, handle: Callable[..., Any]
) -> None:
    script.faults["provision"] = [refused("The template is in use.")]
    await handle()
    ends = datetime.now(UTC) + timedelta(seconds=job.policy.decision_window)
    told = await told_once(client, job, lambda one: one.waits_until)
    assert told.waits_until is not None
    assert abs(told.waits_until - ends) < timedelta(minutes=1)
    assert told.last_failed is not None
    assert told.last_failed.name == "provision"
    assert told.steps == []
