"""Copies of instances: each path of their workflow that is not that of any create."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import made_of
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import CreateInstance
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, str]]]
SOURCE_MARK = "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f13"
BACKUP_QUEUE = "queue of what takes long"


@pytest.fixture
def copy(job: InstanceJob) -> InstanceJob:
    """A copy whose steps on the queue of backups would not be found."""
    origin = CopyOrigin(12, CopyMode.CLOSED, SOURCE_MARK)
    return made_of(job, origin)


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    async def start(job: InstanceJob) -> WorkflowHandle[Any, str]:
        return await client.start_workflow(CreateInstance.run, job, id=job.workflow_id, task_queue=queue)

    return start


def online(copy: InstanceJob) -> InstanceJob:
    return made_of(copy, CopyOrigin(12, CopyMode.ONLINE, SOURCE_MARK))


@pytest.mark.parametrize("mode", list(CopyMode))
async def test_copy_is_begun_provisioned_and_finished_when_nothing_fails(
    start: Start, copy: InstanceJob, script: Script, keep: Keep, mode: CopyMode
) -> None:
    handle = await start(made_of(copy, CopyOrigin(12, mode, SOURCE_MARK)))
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision", "finish"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep(f"copy-{mode}-completed", handle)


@pytest.mark.parametrize(("mode", "queue_"), [(CopyMode.ONLINE, BACKUP_QUEUE), (CopyMode.CLOSED, None)])
async def test_online_copy_takes_no_place_of_other_jobs_when_it_is_made(
    start: Start, copy: InstanceJob, queue: str, mode: CopyMode, queue_: str | None
) -> None:
    policy = replace(copy.policy, backup_queue=BACKUP_QUEUE)
    handle = await start(made_of(replace(copy, policy=policy), CopyOrigin(12, mode, SOURCE_MARK)))
    async with asyncio.timeout(10):
        while True:
            events = (await handle.fetch_history()).events
            scheduled = [event.activity_task_scheduled_event_attributes for event in events]
            if found := [one for one in scheduled if one.activity_type.name == "provision"]:
                break
            await asyncio.sleep(0.01)
    assert found[0].task_queue.name == (queue_ or queue)
    await handle.terminate() if queue_ else await handle.result()


async def test_copy_is_undone_and_retried_when_a_program_has_failed_too_often(
    start: Start, copy: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [ApplicationError("pg_dump has failed.", type="CopyFailedError")] * 3
    handle = await start(online(copy))
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == [
        *("begin", *["provision"] * 3, "fail", "compensate"),
        *("begin", "provision", "finish"),
    ]
    assert (script.reasons, script.attempts) == (["pg_dump has failed."], [1, 2])
    await keep("copy-retried", handle)


async def test_copy_ends_at_once_when_its_source_cannot_be_copied_any_more(
    start: Start, copy: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("The source accepts no connections.")]
    handle = await start(copy)
    await until(lambda: "compensate" in script.calls)
    script.begun = BeginResult(held=False)
    await handle.signal(JobWorkflow.retry)
    assert "nothing was done" in await handle.result()
    assert script.calls == ["begin", "provision", "fail", "compensate", "begin"]
    await keep("copy-source-gone", handle)


async def test_copy_is_undone_when_it_is_cancelled(
    start: Start, copy: InstanceJob, script: Script, keep: Keep
) -> None:
    async def hold() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)

    script.holds["provision"] = hold
    handle = await start(online(copy))
    await until(lambda: "provision" in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError | ApplicationError)
    assert script.calls == ["begin", "provision", "fail", "compensate"]
    await keep("copy-cancelled", handle)
