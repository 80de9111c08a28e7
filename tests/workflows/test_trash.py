"""The workflows of the trash: into it, out of it, what is dropped from there; and deletes that leave all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[str], Awaitable[WorkflowHandle[Any, Any]]]

STEPS = {
    "Trash": ("trash", "finish"),
    "Detach": ("detach", "finish"),
    "Undelete": ("undelete", "finish"),
    "Purge": ("purge", "finish"),
}
DONE = dict.fromkeys(STEPS, "Deleted") | {"Undelete": "Completed"}
FAILED = dict.fromkeys(STEPS, "Delete_Failed") | {"Undelete": "Deleted"}


@pytest.fixture
def job_of(job: InstanceJob) -> Callable[[str], InstanceJob]:
    def make(kind: str) -> InstanceJob:
        return of_kind(job, kind, number=2, published=True)

    return make


@pytest.fixture
def start(client: Client, queue: str, job_of: Callable[[str], InstanceJob]) -> Start:
    async def start(kind: str) -> WorkflowHandle[Any, Any]:
        wanted = job_of(kind)
        return await client.start_workflow(
            WORKFLOW_TYPES[wanted.operation], wanted, id=wanted.workflow_id, task_queue=queue
        )

    return start


@pytest.mark.parametrize("kind", STEPS)
async def test_job_is_begun_done_and_finished_when_nothing_fails(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    handle = await start(kind)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", *STEPS[kind]]
    assert (await handle.describe()).typed_search_attributes[STATUS] == DONE[kind]
    await keep(f"{kind.lower()}-completed", handle)


@pytest.mark.parametrize("kind", ["Trash", "Detach", "Purge"])
async def test_last_step_is_saved_when_the_outcome_was_recorded_on_the_way(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    script.finished_on_the_way = True
    handle = await start(kind)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", STEPS[kind][0]]
    await keep(f"{kind.lower()}-finished-on-the-way", handle)


async def test_nothing_is_recorded_as_in_the_trash_when_there_was_no_database(
    start: Start, script: Script, keep: Keep
) -> None:
    script.kept = False
    handle = await start("Trash")
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "trash", "finish"]
    assert [end.outcome.had_database for end in script.finished] == [False]
    await keep("trash-of-nothing", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_nothing_is_done_when_the_job_is_refused_at_its_beginning(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    script.begun = BeginResult(held=True, refusal="The ODS instance is in use by Applications.")
    handle = await start(kind)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "fail", "compensate"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == FAILED[kind]
    await keep(f"{kind.lower()}-refused", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_job_is_undone_and_can_be_retried_when_a_step_has_failed(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    step, last = STEPS[kind]
    script.faults[step] = [refused("Sessions of a superuser do not end.")]
    handle = await start(kind)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", step, "fail", "compensate", "begin", step, last]
    assert script.attempts == [1, 2]
    await keep(f"{kind.lower()}-retried", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_job_fails_when_every_attempt_has_failed(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    step = STEPS[kind][0]
    script.faults[step] = [ApplicationError("Sessions do not end.")] * 3
    handle = await start(kind)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", *[step] * 3, "fail", "compensate"]
    await keep(f"{kind.lower()}-failed", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_status_is_written_in_the_end_when_the_registry_is_away(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    last = STEPS[kind][1]
    script.faults[last] = [OSError("registry away")] * 5
    handle = await start(kind)
    await handle.result()
    assert script.calls.count(last) == 6
    await keep(f"{kind.lower()}-registry-away", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_late_session_is_ended_when_the_job_is_cancelled(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    step = STEPS[kind][0]

    async def work() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)

    script.holds[step] = work
    handle = await start(kind)
    await until(lambda: step in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", step, "fail", "compensate"]
    assert script.reasons == ["The job was cancelled."]
    await keep(f"{kind.lower()}-cancelled", handle)


async def test_database_goes_back_to_the_trash_when_its_name_was_taken_before_the_undelete_ended(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["finish"] = [refused("An instance named 'Grand Bend' already exists.")]
    handle = await start("Undelete")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "undelete", "finish", "fail", "compensate"]
    await keep("undelete-finish-refused", handle)


async def test_undelete_follows_without_a_gap_when_a_failed_purge_waits(
    start: Start,
    job_of: Callable[[str], InstanceJob],
    script: Script,
    keep: Keep,
) -> None:
    script.faults["purge"] = [refused("It carries another comment.")]
    handle = await start("Purge")
    await until(lambda: "compensate" in script.calls)
    script.due = True
    undelete = replace(job_of("Undelete"), number=3, request=NEXT_REQUEST)
    await handle.signal(JobWorkflow.hand_over, undelete)
    assert await handle.result() == f"{undelete.job_id} is done."
    assert script.calls[-3:] == ["begin", "undelete", "finish"]
    await keep("purge-handed-over-to-undelete", handle)
