"""The workflow that makes a snapshot of an instance."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from ods.registry.instances.jobs import InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import SnapshotInstance
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def start(client: Client, queue: str, job: InstanceJob) -> Start:
    wanted = of_kind(job, "Snapshot", number=2, published=True)

    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            SnapshotInstance.run, wanted, id=wanted.workflow_id, task_queue=queue
        )

    return start


async def test_copy_is_made_and_recorded_when_nothing_fails(start: Start, script: Script, keep: Keep) -> None:
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "snapshot", "finish"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep("snapshot-completed", handle)


async def test_last_step_is_saved_when_the_snapshot_was_recorded_on_the_way(
    start: Start, script: Script, keep: Keep
) -> None:
    script.finished_on_the_way = True
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "snapshot"]
    await keep("snapshot-finished-on-the-way", handle)


@pytest.mark.parametrize("step", ["snapshot", "finish"])
async def test_copy_is_removed_and_the_job_fails_when_a_step_is_refused(
    start: Start, script: Script, keep: Keep, step: str
) -> None:
    script.faults[step] = [refused("pg_dump has failed.")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.abandon)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls[-2:] == ["fail", "compensate"]
    assert script.reasons == ["pg_dump has failed."]
    await keep(f"snapshot-{step}-refused", handle)


async def test_copy_is_made_again_when_the_operator_signals_retry(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["snapshot"] = [refused("pg_dump has failed.")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.attempts == [1, 2]
    await keep("snapshot-retried", handle)
