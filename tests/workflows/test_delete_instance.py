from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import DeleteInstance
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def start(client: Client, queue: str, job: InstanceJob) -> Start:
    deletion = of_kind(job, "Delete", number=2, published=True)

    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            DeleteInstance.run, deletion, id=deletion.workflow_id, task_queue=queue
        )

    return start


async def test_instance_is_begun_dropped_and_finished_when_nothing_fails(
    start: Start, script: Script, keep: Keep
) -> None:
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "drop", "finish"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Deleted"
    await keep("delete-completed", handle)


async def test_last_step_is_saved_when_the_outcome_was_recorded_on_the_way(
    start: Start, script: Script, keep: Keep
) -> None:
    script.finished_on_the_way = True
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "drop"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Deleted"
    await keep("delete-finished-on-the-way", handle)


async def test_nothing_is_dropped_when_the_ods_instance_is_in_use(
    start: Start, script: Script, keep: Keep
) -> None:
    script.begun = BeginResult(held=True, refusal="The ODS instance is in use by Applications.")
    handle = await start()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert script.calls == ["begin", "fail", "compensate"]
    assert script.reasons == ["The ODS instance is in use by Applications."]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Delete_Failed"
    await keep("delete-refused", handle)


async def test_job_is_done_when_retried_after_the_drop_was_refused(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["drop"] = [refused("Sessions of a superuser do not end.")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "drop", "fail", "compensate", "begin", "drop", "finish"]
    assert script.attempts == [1, 2]
    await keep("delete-retried", handle)


async def test_job_fails_when_every_attempt_to_drop_failed(start: Start, script: Script, keep: Keep) -> None:
    script.faults["drop"] = [ApplicationError("Sessions do not end.")] * 3
    handle = await start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", *["drop"] * 3, "fail", "compensate"]
    await keep("delete-failed", handle)


async def test_failure_stands_and_can_be_retried_when_a_late_session_could_not_be_ended(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["drop"] = [refused("Sessions of a superuser do not end.")]
    script.faults["compensate"] = [ApplicationError("server away")] * 3
    handle = await start()
    await until(lambda: script.calls.count("compensate") == 3)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls[3:] == [*["compensate"] * 3, "begin", "drop", "finish"]
    await keep("delete-compensate-failing", handle)


async def test_status_is_written_in_the_end_when_the_registry_is_away(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["finish"] = [OSError("registry away")] * 20
    handle = await start()
    await handle.result()
    assert script.calls.count("finish") == 21
    await keep("delete-registry-away", handle)


async def test_workflow_ends_as_failed_when_abandoned(start: Start, script: Script, keep: Keep) -> None:
    script.faults["drop"] = [refused("no")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.abandon)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await keep("delete-abandoned", handle)
