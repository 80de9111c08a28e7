"""The workflow of a purge that makes a backup first, and how it follows the delete of a live instance."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from ods.model.arguments import DeleteArguments, PurgeArguments
from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, Any]]]

STEPS = ["back_up_trash", "verify_final_backup", "purge_backed_up"]


@pytest.fixture
def purge(job: InstanceJob) -> InstanceJob:
    return of_kind(
        job,
        "Purge",
        arguments=PurgeArguments(backup_first=True),
        number=3,
        request=NEXT_REQUEST,
        published=True,
    )


@pytest.fixture
def trash(job: InstanceJob) -> InstanceJob:
    return of_kind(
        job,
        "Trash",
        arguments=DeleteArguments(keep=True, backup_first=True),
        number=2,
        published=True,
    )


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    async def start(wanted: InstanceJob) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            WORKFLOW_TYPES[wanted.operation], wanted, id=wanted.workflow_id, task_queue=queue
        )

    return start


async def test_database_is_dropped_when_its_backup_is_stored_and_verified(
    start: Start, script: Script, keep: Keep, purge: InstanceJob
) -> None:
    handle = await start(purge)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", *STEPS, "finish"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Deleted"
    await keep("purge-after-backup-completed", handle)


async def test_last_step_is_saved_when_the_purge_was_recorded_on_the_way(
    start: Start, script: Script, keep: Keep, purge: InstanceJob
) -> None:
    script.finished_on_the_way = True
    handle = await start(purge)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", *STEPS]
    await keep("purge-after-backup-finished-on-the-way", handle)


async def test_nothing_is_verified_when_there_is_no_database_any_more(
    start: Start, script: Script, keep: Keep, purge: InstanceJob
) -> None:
    script.kept = False
    handle = await start(purge)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "back_up_trash", "purge_backed_up", "finish"]
    await keep("purge-after-backup-of-nothing", handle)


@pytest.mark.parametrize("step", STEPS)
async def test_nothing_after_it_is_done_when_a_step_has_failed_and_all_is_when_it_is_retried(
    start: Start, script: Script, keep: Keep, purge: InstanceJob, step: str
) -> None:
    script.faults[step] = [refused("The store is full.")]
    handle = await start(purge)
    await until(lambda: "compensate" in script.calls)
    done = STEPS[: STEPS.index(step) + 1]
    assert script.calls == ["begin", *done, "fail", "compensate"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Delete_Failed"
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls[len(done) + 3 :] == ["begin", *STEPS, "finish"]
    assert script.attempts == [1, 2]
    await keep(f"purge-after-backup-retried-{step.replace('_', '-')}", handle)


@pytest.mark.parametrize("step", STEPS[:-1])
async def test_database_is_not_dropped_when_the_workflow_is_cancelled_late_in_the_step_before(
    start: Start, script: Script, keep: Keep, purge: InstanceJob, step: str
) -> None:
    handle = await start(purge)

    async def cancel() -> None:
        """The activity is told with a heartbeat, and ends before its next one."""
        await handle.cancel()
        told = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
        while not [event async for event in handle.fetch_history_events() if event.event_type == told]:
            await asyncio.sleep(0.01)

    script.holds[step] = cancel
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    assert script.calls == ["begin", *STEPS[: STEPS.index(step) + 1], "fail", "compensate"]
    await keep(f"purge-after-backup-cancelled-late-in-{step.replace('_', '-')}", handle)


@pytest.mark.parametrize("step", STEPS)
async def test_step_is_tried_again_when_a_server_or_the_store_is_away(
    start: Start, script: Script, keep: Keep, purge: InstanceJob, step: str
) -> None:
    script.faults[step] = [ApplicationError("The store is away.", type="Outage")] * 5
    handle = await start(purge)
    assert "is done" in await handle.result()
    assert script.calls.count(step) == 6
    assert "fail" not in script.calls
    await keep(f"purge-after-backup-outage-{step.replace('_', '-')}", handle)


async def test_nothing_is_done_when_the_purge_is_refused_at_its_beginning(
    start: Start, script: Script, keep: Keep, purge: InstanceJob
) -> None:
    script.begun = BeginResult(held=True, refusal="The instance is protected.")
    handle = await start(purge)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "fail", "compensate"]
    await keep("purge-after-backup-refused", handle)


@pytest.mark.parametrize("step", STEPS)
async def test_database_stays_closed_in_the_trash_when_the_purge_is_cancelled(
    start: Start, script: Script, keep: Keep, purge: InstanceJob, step: str
) -> None:
    async def hold() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)

    script.holds[step] = hold
    handle = await start(replace(purge, policy=replace(purge.policy, heartbeat_timeout=1)))
    await until(lambda: step in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", *STEPS[: STEPS.index(step) + 1], "fail", "compensate"]
    assert script.reasons == ["The job was cancelled."]
    await keep(f"purge-after-backup-cancelled-{step.replace('_', '-')}", handle)


async def test_undelete_follows_without_a_gap_when_a_failed_purge_waits(
    start: Start, script: Script, keep: Keep, purge: InstanceJob
) -> None:
    script.faults["verify_final_backup"] = [refused("The table dbo.treasure is missing.")]
    handle = await start(purge)
    await until(lambda: "compensate" in script.calls)
    script.due = True
    undelete = of_kind(purge, "Undelete", number=4, request=str(UUID(int=4)))
    await handle.signal(JobWorkflow.hand_over, undelete)
    assert await handle.result() == f"{undelete.job_id} is done."
    assert script.calls[-3:] == ["begin", "undelete", "finish"]
    await keep("purge-after-backup-handed-over-to-undelete", handle)


async def test_purge_follows_without_a_gap_when_it_was_requested_with_the_delete(
    start: Start, script: Script, keep: Keep, trash: InstanceJob, purge: InstanceJob
) -> None:
    script.following = purge
    script.faults["request_purge_after"] = [OSError("registry away")] * 2
    handle = await start(trash)
    assert await handle.result() == f"{purge.job_id} is done."
    requests = ["request_purge_after"] * 3
    assert script.calls == [
        *("begin", "trash", "finish", *requests),
        *("begin", *STEPS, "finish"),
    ]
    await keep("trash-followed-by-purge", handle)


async def test_delete_is_done_when_the_purge_that_was_to_follow_is_not_wanted_any_more(
    start: Start, script: Script, keep: Keep, trash: InstanceJob
) -> None:
    handle = await start(trash)
    assert await handle.result() == f"{trash.job_id} is done."
    assert script.calls == ["begin", "trash", "finish", "request_purge_after"]
    await keep("trash-not-followed-by-purge", handle)


@pytest.mark.parametrize("step", ["finish", "request_purge_after"])
async def test_no_purge_follows_when_the_workflow_is_cancelled_while_that_is_recorded(
    start: Start, script: Script, keep: Keep, trash: InstanceJob, purge: InstanceJob, step: str
) -> None:
    script.following = purge
    handle = await start(trash)

    async def cancel() -> None:
        await handle.cancel()

    script.holds[step] = cancel
    script.faults[step] = [OSError("registry away")]
    assert await handle.result() == f"{trash.job_id} is done."
    steps = ["begin", "trash", "finish", "request_purge_after", "call_off_purge"]
    steps.insert(steps.index(step), step)
    assert script.calls == steps
    await keep(f"trash-cancelled-during-{step.replace('_', '-')}", handle)


async def test_no_purge_is_requested_when_the_delete_has_failed(
    start: Start, script: Script, keep: Keep, trash: InstanceJob
) -> None:
    script.faults["trash"] = [refused("Sessions of a superuser do not end.")]
    handle = await start(trash)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "trash", "fail", "compensate"]
    await keep("trash-that-failed-before-its-purge", handle)
