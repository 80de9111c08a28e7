from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import RenameInstance
from workflows.search_attributes import NAME, OPERATION, STATUS

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def renaming(job: InstanceJob) -> InstanceJob:
    return of_kind(
        job,
        "Rename",
        number=2,
        published=True,
        new_name="Big Bend",
        new_database="EdFi_Ods_Big_Bend_Minimal",
    )


@pytest.fixture
def start(client: Client, queue: str, renaming: InstanceJob) -> Start:
    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            RenameInstance.run, renaming, id=renaming.workflow_id, task_queue=queue
        )

    return start


async def _failed(handle: WorkflowHandle[Any, str]) -> None:
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def test_instance_is_begun_renamed_and_finished_when_nothing_fails(
    start: Start, script: Script, keep: Keep
) -> None:
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "rename", "finish"]
    attributes = (await handle.describe()).typed_search_attributes
    assert (attributes[STATUS], attributes[NAME]) == ("Completed", "Big Bend")
    await keep("rename-completed", handle)


async def test_nothing_is_renamed_when_the_job_is_no_longer_due(
    start: Start, script: Script, keep: Keep
) -> None:
    script.begun = BeginResult(held=False)
    handle = await start()
    assert "nothing was done" in await handle.result()
    assert script.calls == ["begin"]
    await keep("rename-superseded", handle)


async def test_instance_keeps_its_name_when_the_new_one_was_taken_meanwhile(
    start: Start, script: Script, keep: Keep
) -> None:
    script.begun = BeginResult(held=True, refusal="An instance named 'Big Bend' already exists.")
    handle = await start()
    await _failed(handle)
    assert script.calls == ["begin", "fail", "compensate"]
    assert script.reasons == ["An instance named 'Big Bend' already exists."]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Error"
    await keep("rename-refused", handle)


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        ("rename", ["begin", "rename", "fail", "compensate"]),
        ("finish", ["begin", "rename", "finish", "fail", "compensate"]),
    ],
)
async def test_database_is_renamed_back_when_a_step_is_refused(
    start: Start, script: Script, keep: Keep, step: str, calls: list[str]
) -> None:
    script.faults[step] = [refused("It cannot be.")]
    handle = await start()
    await _failed(handle)
    assert script.calls == calls
    assert script.reasons == ["It cannot be."]
    await keep(f"rename-{step}-refused", handle)


async def test_job_fails_when_every_attempt_to_rename_failed(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["rename"] = [ApplicationError("Sessions do not end.")] * 3
    handle = await start()
    await _failed(handle)
    assert script.calls == ["begin", *["rename"] * 3, "fail", "compensate"]
    await keep("rename-exhausted", handle)


async def test_status_is_written_in_the_end_when_the_registry_is_away(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["finish"] = [OSError("registry away")] * 20
    handle = await start()
    await handle.result()
    assert script.calls.count("finish") == 21
    await keep("rename-registry-away", handle)


async def test_job_is_done_when_retried_after_a_failure(start: Start, script: Script, keep: Keep) -> None:
    script.faults["rename"] = [refused("The name is taken.")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "rename", "fail", "compensate", "begin", "rename", "finish"]
    assert script.attempts == [1, 2]
    await keep("rename-retried", handle)


async def test_workflow_ends_as_failed_when_abandoned(start: Start, script: Script, keep: Keep) -> None:
    script.faults["rename"] = [refused("no")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.abandon)
    await _failed(handle)
    await keep("rename-abandoned", handle)


async def test_database_is_renamed_back_when_the_job_is_cancelled(
    start: Start, script: Script, keep: Keep
) -> None:
    handle = await start()
    script.faults["begin"] = [OSError("registry away")]  # the second try is not part of the workflow task

    async def cancel() -> None:
        if script.calls.count("begin") == 2:
            await handle.cancel()  # acted on before anything is renamed

    script.holds["begin"] = cancel
    await _failed(handle)
    assert script.calls == ["begin", "begin", "fail", "compensate"]
    assert script.reasons == ["The job was cancelled."]
    await keep("rename-cancelled", handle)


async def test_next_job_follows_without_a_gap_when_it_is_handed_over(
    start: Start, renaming: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["rename"] = [refused("no")]
    handle = await start()
    await until(lambda: "compensate" in script.calls)
    script.due = True
    deletion = of_kind(
        renaming,
        "Delete",
        number=3,
        request=NEXT_REQUEST,
        new_name=None,
        new_database=None,
    )
    await handle.signal(JobWorkflow.hand_over, deletion)
    assert await handle.result() == f"{deletion.job_id} is done."
    assert script.calls[-3:] == ["begin", "drop", "finish"]
    attributes = (await handle.describe()).typed_search_attributes
    assert attributes[OPERATION] == "Delete"
    await keep("rename-handed-over-to-delete", handle)
