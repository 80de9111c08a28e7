"""What the time-skipping server cannot do: continue as new after a cancellation."""

import pytest
from temporalio.client import Client

from ods.registry.instances.jobs import InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused
from workflows.job_workflow import JobWorkflow
from workflows.jobs import CreateInstance


@pytest.fixture
def client(temporal: Client) -> Client:
    return temporal


async def test_handed_over_job_is_not_lost_when_the_workflow_is_cancelled(
    client: Client, queue: str, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.due = True
    handle = await client.start_workflow(CreateInstance.run, job, id=job.workflow_id, task_queue=queue)

    async def cancel_and_hand_over() -> None:
        await handle.cancel()
        await handle.signal(JobWorkflow.hand_over, of_kind(job, "Delete", number=2, request=NEXT_REQUEST))

    script.holds["compensate"] = cancel_and_hand_over
    deletion = of_kind(job, "Delete", number=2, request=NEXT_REQUEST)
    assert "DeleteInstanceJob" in await handle.result()
    assert (await (await handle.describe()).memo())["job"] == deletion.job_id
    assert script.calls[4:] == ["is_due", "begin", "drop", "finish"]
    await keep("create-handed-over-when-cancelled", handle)
