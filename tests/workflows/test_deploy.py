"""Changed workflow code is deployed while jobs run: with `workflow.patched` they go on as they began."""

import uuid
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer, Worker
from temporalio.workflow import NondeterminismError

from ods.registry.instances.jobs import InstanceJob
from ods.temporal.client import DATA_CONVERTER
from tests.workflows.next_version import PATCH, Patched, Unpatched
from tests.workflows.script import Script, refused, until
from worker import WORKFLOWS
from workflows.job_workflow import JobWorkflow
from workflows.jobs import CreateInstance


def _worker(client: Client, queue: str, script: Script, *workflows: type) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=script.activities,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )


@pytest.fixture
def client(temporal: Client) -> Client:
    """A real server: the time-skipping one does not hand a workflow from one worker to the next."""
    return temporal


@pytest.fixture
async def waiting(client: Client, script: Script, job: InstanceJob) -> WorkflowHandle[CreateInstance, str]:
    """A job that the code of today has begun, and that waits for a decision."""
    script.faults["provision"] = [refused("The template is missing.")]
    queue = f"deploy-{uuid.uuid4().hex}"
    async with _worker(client, queue, script, *WORKFLOWS):
        handle = await client.start_workflow(CreateInstance.run, job, id=job.workflow_id, task_queue=queue)
        await until(lambda: "compensate" in script.calls)
        await handle.query("__temporal_workflow_metadata")  # the task that waits is done
    return handle


async def test_job_goes_on_when_patched_code_is_deployed_while_it_waits(
    client: Client, script: Script, waiting: WorkflowHandle[CreateInstance, str]
) -> None:
    queue = (await waiting.describe()).task_queue
    script.calls.clear()
    async with _worker(client, queue, script, Patched):
        await waiting.signal(JobWorkflow.retry)
        assert "is done" in await waiting.result()
    # The retry is a run of its own, and so has the new step.
    assert script.calls == ["begin", "begin", "provision", "finish"]


async def test_running_attempt_keeps_its_steps_when_patched_code_is_deployed(
    waiting: WorkflowHandle[CreateInstance, str],
) -> None:
    history = await waiting.fetch_history()
    await Replayer(workflows=[Patched], data_converter=DATA_CONVERTER).replay_workflow(history)
    assert PATCH not in history.to_json()


async def test_replay_tells_when_the_change_was_not_patched(
    waiting: WorkflowHandle[CreateInstance, str],
) -> None:
    history = await waiting.fetch_history()
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[Unpatched], data_converter=DATA_CONVERTER).replay_workflow(history)
