"""What is away is waited for: it uses up none of a job's attempts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from ods.embedded.polling import wait_until
from ods.registry.instances.jobs import InstanceJob
from tests.job_kinds import JOB_KINDS, of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow
from workflows.options import LONGEST_PAUSE, pause_after
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, str]]]

AWAY = "The PostgreSQL server of the ODS databases cannot be reached."
STEPS = {
    "Create": "provision",
    "Delete": "drop",
    "Rename": "rename",
    "Trash": "trash",
    "Detach": "detach",
    "Undelete": "undelete",
    "Purge": "purge",
    "Backup": "back_up",
    "Snapshot": "snapshot",
    "Reset": "reset",
    "UndoReset": "reset",
}


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    async def start(job: InstanceJob) -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            WORKFLOW_TYPES[job.operation],
            job,
            id=job.workflow_id,
            task_queue=queue,
            result_type=str,
        )

    return start


def away(reason: str = AWAY) -> ApplicationError:
    return ApplicationError(reason, type="Outage")


@pytest.mark.parametrize("kind", JOB_KINDS)
async def test_job_is_done_when_the_server_comes_back_after_more_tries_than_the_job_has_attempts(
    start: Start, job: InstanceJob, script: Script, keep: Keep, kind: str
) -> None:
    step = STEPS[kind]
    script.faults[step] = [away()] * 20
    wanted = of_kind(job, kind, new_name="New", new_database="New")
    handle = await start(wanted)
    assert "is done" in await handle.result()
    assert script.calls.count(step) == 21
    assert "fail" not in script.calls
    await keep(f"{kind.lower()}-outage", handle)


@pytest.mark.parametrize("kind", ["SlotMissed", "WorkerShutdown"])
async def test_job_is_done_when_workers_stop_more_often_than_the_job_has_attempts(
    start: Start, job: InstanceJob, script: Script, kind: str
) -> None:
    script.faults["provision"] = [ApplicationError("The worker stopped.", type=kind)] * 8
    assert "is done" in await (await start(job)).result()
    assert "fail" not in script.calls


async def test_wait_is_recorded_once_for_each_reason_when_an_outage_goes_on(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [*[away()] * 3, *[away("Its disk is full.")] * 3]
    handle = await start(job)
    await handle.result()
    assert [wait.reason for wait in script.waits] == [AWAY, "Its disk is full."]
    first, second = script.waits
    assert first.since_seconds < second.since_seconds
    assert first.since_seconds + first.until_seconds == pytest.approx(job.policy.outage_timeout)
    await keep("create-outage-of-two-reasons", handle)


async def test_job_goes_on_when_the_wait_cannot_be_recorded(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [away()] * 3
    script.faults["record_wait"] = [OSError("registry away")]
    handle = await start(job)
    assert "is done" in await handle.result()
    await keep("create-outage-of-both", handle)


async def test_job_fails_with_the_reason_when_an_outage_lasts_too_long(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [away()] * 1000
    policy = replace(job.policy, outage_timeout=120, decision_window=1)
    handle = await start(replace(job, policy=policy))
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.reasons == [AWAY]
    assert script.outages == [True]
    described = await handle.describe()
    assert described.close_time is not None
    lasted = described.close_time - described.start_time
    assert timedelta(seconds=120) <= lasted < timedelta(seconds=120) + 2 * LONGEST_PAUSE
    await keep("create-outage-too-long", handle)


async def test_attempts_count_as_before_when_an_outage_is_over(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    in_use = ApplicationError("The template is in use.")
    script.faults["provision"] = [in_use, away(), away(), in_use, away(), in_use, in_use]
    handle = await start(job)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls.count("provision") == 6
    assert (script.reasons, script.outages) == (["The template is in use."], [False])
    await keep("create-outage-between-attempts", handle)


@pytest.mark.timed
async def test_next_try_is_made_at_once_when_a_person_signals_retry(
    client: Client, start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [away()] * 6
    handle = await start(job)
    await until(lambda: script.calls.count("provision") == 5)  # the next pause takes 3.2 seconds
    signalled = time.monotonic()
    await handle.signal(JobWorkflow.retry)
    await until(lambda: script.calls.count("provision") == 6)
    assert time.monotonic() - signalled < 2
    await handle.result()
    await keep("create-outage-retried", handle)


async def pauses_after_tries(handle: WorkflowHandle[Any, str], tries: int) -> None:
    """Wait until the workflow has met the outage `tries` times, and waits before it tries again.

    A cancellation while a try fails can make the time-skipping server stand still: it neither takes the
    completion of the workflow task nor that of the activity.
    """

    async def pauses() -> bool:
        events = (await handle.fetch_history()).events
        failed = [event for event in events if event.HasField("activity_task_failed_event_attributes")]
        return len(failed) == tries and events[-1].HasField("timer_started_event_attributes")

    await wait_until(pauses, 10)


async def test_job_is_undone_when_it_is_cancelled_while_it_waits(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [away()] * 1000
    handle = await start(job)
    await pauses_after_tries(handle, 4)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.reasons == ["The job was cancelled."]
    assert script.calls[-1] == "compensate"
    await keep("create-outage-cancelled", handle)


async def test_job_is_undone_when_it_is_cancelled_during_a_try_that_meets_an_outage(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    async def meet_an_outage() -> None:
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            raise away() from None

    script.holds["provision"] = meet_an_outage
    handle = await start(job)
    await until(lambda: "provision" in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.reasons == ["The job was cancelled."]
    assert script.calls == ["begin", "provision", "fail", "compensate"]
    await keep("create-outage-while-cancelled", handle)


@pytest.mark.parametrize(
    ("kind", "fault", "reason"),
    [
        ("outage", away(), "The job was cancelled."),
        ("answer", ApplicationError("Sessions do not end."), "The job was cancelled."),
        ("refusal", refused("It is not ours."), "It is not ours."),
    ],
)
async def test_delete_ends_and_is_not_tried_again_when_it_is_cancelled_during_its_last_try(
    start: Start,
    job: InstanceJob,
    script: Script,
    keep: Keep,
    kind: str,
    fault: ApplicationError,
    reason: str,
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            raise fault from None

    script.holds["drop"] = fail_when_cancelled
    policy = replace(job.policy, outage_timeout=0, ddl_attempts=1)
    deletion = of_kind(job, "Delete", number=2, published=True, policy=policy)
    handle = await start(deletion)
    await until(lambda: "drop" in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError), "it does not wait for a decision"
    assert script.calls == ["begin", "drop", "fail", "compensate"]
    assert (script.reasons, script.outages) == ([reason], [False]), "an outage would have it tried again"
    await keep(f"delete-cancelled-in-last-try-{kind}", handle)


async def test_instance_is_completed_when_the_database_of_a_failed_create_was_published(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("It does not answer.")]
    script.followed = True
    handle = await start(job)
    assert "its database had been published" in await handle.result()
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep("create-followed-its-database", handle)


async def test_job_of_another_instance_follows_when_a_restored_registry_gave_it_the_same_id(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    script.due = True
    mark = "11111111-52f4-4f3c-8a43-0e8d7f4f3f10"
    other = replace(job, mark=mark, request=NEXT_REQUEST, name="Another")
    await handle.signal(JobWorkflow.hand_over, other)
    assert "is done" in await handle.result()
    assert script.calls[-3:] == ["begin", "provision", "finish"]
    await keep("create-handed-over-to-another-mark", handle)


def test_pauses_grow_to_ten_seconds_when_an_outage_goes_on() -> None:
    pauses = [pause_after(failures).total_seconds() for failures in range(1, 12)]
    assert pauses[0] == 0.2
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10
