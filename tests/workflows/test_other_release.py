"""Workers of two releases serve the queues: what one of them cannot read, it leaves to the other."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.endings import Outcome
from ods.embedded.polling import wait_until
from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import JOB_KINDS, of_kind
from tests.workflows.later_release import LaterEnd, LaterJob, LaterPurge, LaterWait
from tests.workflows.script import Script, until
from worker import WORKFLOWS
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow


class LaterScript(Script):
    """The steps of that release."""

    @activity.defn
    async def begin(self, job: LaterJob) -> BeginResult:  # type: ignore[override]
        return await super().begin(job)

    @activity.defn
    async def record_wait(self, wait: LaterWait) -> None:  # type: ignore[override]
        await super().record_wait(wait)

    @activity.defn
    async def purge(self, job: LaterJob) -> Outcome:  # type: ignore[override]
        assert job.keep_a_copy
        return await super().purge(job)

    @activity.defn
    async def finish(self, end: LaterEnd) -> bool:  # type: ignore[override]
        return await super().finish(end)


@pytest.fixture
def client(temporal: Client) -> Client:
    """A real server: the time-skipping one does not hand a workflow from one worker to the next."""
    return temporal


@pytest.fixture
def told(job: InstanceJob) -> Mapping[str, Any]:
    """What a purge of this release is told, as its history has it."""
    return asdict(of_kind(job, "Purge", published=True))


async def _started(
    client: Client, told: Mapping[str, Any], workflow: str = "PurgeInstance"
) -> WorkflowHandle[Any, Any]:
    """A purge, or another job, on a queue of its own; its DDL has another one."""
    queue = f"release-{uuid.uuid4().hex}"
    policy = told["policy"] | {"ddl_queue": f"{queue}-ddl", "ddl_attempts": 1}
    return await client.start_workflow(
        workflow, {**told, "policy": policy}, id=queue, task_queue=queue, result_type=str
    )


def _worker(client: Client, queue: str, script: Script, workflows: Sequence[type] = ()) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=script.activities,
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )


async def _fails_its_task(handle: WorkflowHandle[Any, Any]) -> None:
    async def has_failed() -> bool:
        events = (await handle.fetch_history()).events
        return any(event.HasField("workflow_task_failed_event_attributes") for event in events)

    await wait_until(has_failed, 20)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


@pytest.mark.long
async def test_purge_is_left_to_a_worker_that_knows_it_when_it_is_told_more_than_this_release_reads(
    client: Client, told: Mapping[str, Any], script: Script
) -> None:
    handle = await _started(client, {**told, "keep_a_copy": True})
    async with _worker(client, handle.id, script, WORKFLOWS), _worker(client, f"{handle.id}-ddl", script):
        await _fails_its_task(handle)
    assert script.calls == []
    later = LaterScript()
    async with _worker(client, handle.id, later, [LaterPurge]), _worker(client, f"{handle.id}-ddl", later):
        assert "is done" in await handle.result()
    assert later.calls == ["begin", "purge", "finish"]


_DELETE = {"keep": True, "backup_first": False}
_ORIGIN = {"instance_id": 7, "mode": "online", "mark": None}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Purge", {}),
        ("Purge", {"backup_first": None}),
        ("Purge", {"backup_first": False, "keep_a_copy": True}),
        ("Purge", _DELETE),
        ("Delete", {}),
        ("Delete", {"keep": False}),
        ("Delete", {"backup_first": False}),
        ("Delete", {**_DELETE, "keep": None}),
        ("Delete", {**_DELETE, "keep": "true"}),
        ("Delete", {**_DELETE, "keep_a_copy": True}),
        ("Detach", _DELETE),
        ("Reset", {}),
        ("Reset", {"origin": None}),
        ("Reset", {"origin": {"snapshot_id": "another"}}),
        ("Reset", {"origin": {**_ORIGIN, "as_of": "yesterday"}}),
        ("Create", {"origin": {"database_id": "one that it had"}}),
    ],
)
async def test_nothing_is_done_when_a_job_is_told_less_or_other_things_than_this_release_reads(
    client: Client, job: InstanceJob, script: Script, kind: str, arguments: Mapping[str, Any]
) -> None:
    wrong = {**asdict(of_kind(job, kind, published=True)), "arguments": arguments}
    operation, _ = JOB_KINDS[kind]
    handle = await _started(client, wrong, WORKFLOW_TYPES[operation])
    async with _worker(client, handle.id, script, WORKFLOWS), _worker(client, f"{handle.id}-ddl", script):
        await _fails_its_task(handle)
    assert script.calls == []
    await handle.terminate()


async def test_nothing_is_done_when_a_job_is_told_no_arguments(
    client: Client, told: Mapping[str, Any], script: Script
) -> None:
    less = {name: value for name, value in told.items() if name != "arguments"}
    handle = await _started(client, less)
    async with _worker(client, handle.id, script, WORKFLOWS), _worker(client, f"{handle.id}-ddl", script):
        await _fails_its_task(handle)
    assert script.calls == []
    await handle.terminate()


async def test_step_is_tried_again_when_a_worker_of_another_release_has_got_it(
    client: Client, told: Mapping[str, Any], script: Script
) -> None:
    handle, later = await _started(client, {**told, "keep_a_copy": True}), LaterScript()
    async with _worker(client, handle.id, later, [LaterPurge]):
        async with _worker(client, f"{handle.id}-ddl", script):
            await until(lambda: bool(later.waits))
        assert later.waits[0].reason.startswith("A worker of another release")
        assert script.calls == []
        async with _worker(client, f"{handle.id}-ddl", later):
            await handle.signal(JobWorkflow.retry)
            assert "is done" in await handle.result()
    assert later.calls == ["begin", "record_wait", "purge", "finish"]
