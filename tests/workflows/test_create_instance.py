import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from ods.registry.instances.jobs import BeginResult, InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import NEXT_REQUEST, Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import CreateInstance
from workflows.search_attributes import STATUS


@pytest.fixture
def start(client: Client, queue: str) -> Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, str]]]:
    async def start(job: InstanceJob) -> WorkflowHandle[Any, str]:
        return await client.start_workflow(CreateInstance.run, job, id=job.workflow_id, task_queue=queue)

    return start


Start: TypeAlias = Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, str]]]


async def _failure(handle: WorkflowHandle[Any, str]) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    return failed.value.cause


async def test_instance_is_begun_provisioned_and_finished_when_nothing_fails(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    handle = await start(job)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision", "finish"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep("create-completed", handle)


async def test_last_step_knows_the_generation_of_the_template_when_the_outcome_is_left_to_it(
    start: Start, job: InstanceJob, script: Script
) -> None:
    script.generation = 3
    await (await start(job)).result()
    assert [end.outcome.template_generation for end in script.finished] == [3]


async def test_last_step_is_saved_when_the_outcome_was_recorded_on_the_way(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.finished_on_the_way = True
    handle = await start(job)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep("create-finished-on-the-way", handle)


async def test_nothing_is_touched_when_the_job_is_no_longer_due(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.begun = BeginResult(held=False)
    handle = await start(job)
    assert "nothing was done" in await handle.result()
    assert script.calls == ["begin"]
    await keep("create-superseded", handle)


@pytest.mark.parametrize("step", ["begin", "finish"])
async def test_status_write_is_repeated_until_it_succeeds_when_the_registry_is_away(
    start: Start, job: InstanceJob, script: Script, keep: Keep, step: str
) -> None:
    script.faults[step] = [OSError("registry away")] * 20
    handle = await start(job)
    await handle.result()
    assert script.calls.count(step) == 21
    assert "fail" not in script.calls
    await keep(f"create-registry-away-at-{step}", handle)


async def test_failure_is_recorded_until_it_succeeds_when_the_registry_is_away(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.faults["fail"] = [OSError("registry away")] * 20
    handle = await start(job)
    await _failure(handle)
    assert script.calls.count("fail") == 21
    await keep("create-registry-away-at-fail", handle)


async def test_provisioning_is_tried_again_when_the_fault_may_pass(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [ApplicationError("in use")] * 2
    handle = await start(job)
    await handle.result()
    assert script.calls == ["begin", *["provision"] * 3, "finish"]
    await keep("create-provision-retried", handle)


async def test_job_fails_with_the_reason_when_provisioning_is_refused(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("The template is missing. Create it.")]
    handle = await start(job)
    cause = await _failure(handle)
    assert isinstance(cause, ApplicationError)
    assert cause.message == "The template is missing. Create it."
    assert script.calls == ["begin", "provision", "fail", "compensate"]
    assert script.reasons == ["The template is missing. Create it."]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Error"
    await keep("create-provision-refused", handle)


async def test_job_fails_when_every_attempt_to_provision_failed(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [ApplicationError("The template is in use.")] * 3
    handle = await start(job)
    await _failure(handle)
    assert script.calls == ["begin", *["provision"] * 3, "fail", "compensate"]
    assert script.reasons == ["The template is in use."]
    await keep("create-provision-exhausted", handle)


async def test_job_fails_discreetly_when_a_fault_was_not_foreseen(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [RuntimeError("password=hunter2")] * 3
    handle = await start(job)
    await _failure(handle)
    assert script.reasons == ["Unexpected fault (RuntimeError); the worker's log tells more."]
    history = (await handle.fetch_history()).to_json()
    assert "hunter2" not in history
    assert "Traceback" not in history
    assert "conftest.py" not in history
    await keep("create-provision-unforeseen", handle)


async def test_job_fails_when_no_worker_heartbeats_for_as_long_as_an_outage_is_waited_for(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.holds["provision"] = lambda: asyncio.sleep(60)
    policy = replace(job.policy, ddl_attempts=1, heartbeat_timeout=1, outage_timeout=1)
    handle = await start(replace(job, policy=policy))
    await _failure(handle)
    assert script.reasons == ["No worker could finish the step in time. Check the workers, then retry."]
    await keep("create-heartbeat-timeout", handle)


async def test_database_is_discarded_when_the_name_was_taken_meanwhile(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["finish"] = [refused("An instance named 'Grand Bend' already exists.")]
    handle = await start(job)
    await _failure(handle)
    assert script.calls == ["begin", "provision", "finish", "fail", "compensate"]
    await keep("create-finish-refused", handle)


async def test_failure_stands_when_the_clean_up_fails_too(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.faults["compensate"] = [ApplicationError("server away")] * 3
    handle = await start(job)
    await _failure(handle)
    assert script.calls == ["begin", "provision", "fail", *["compensate"] * 3]
    await keep("create-compensate-failing", handle)


async def test_job_is_done_when_retried_after_a_failure(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision", "fail", "compensate", "begin", "provision", "finish"]
    assert script.attempts == [1, 2]
    await keep("create-retried", handle)


async def test_job_is_retried_under_its_new_request_when_a_database_was_adopted(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.next_request = NEXT_REQUEST
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.requests == [job.request, NEXT_REQUEST]
    await keep("create-retried-after-adoption", handle)


async def test_next_job_is_not_lost_when_handed_over_while_the_next_attempt_is_asked_for(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.due = True
    handle = await start(job)
    next_job = replace(job, request=NEXT_REQUEST, number=job.number + 1)

    async def hand_over() -> None:
        await handle.signal(JobWorkflow.hand_over, next_job)

    script.holds["next_attempt"] = hand_over
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.requests == [job.request, NEXT_REQUEST]
    await keep("create-retried-while-handed-over", handle)


async def test_retry_is_not_lost_when_signalled_during_the_clean_up(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)

    async def signal() -> None:
        await handle.signal(JobWorkflow.retry)

    script.holds["compensate"] = signal
    assert "is done" in await handle.result()
    await keep("create-retried-during-clean-up", handle)


async def test_retry_does_not_count_when_signalled_before_the_failure(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)

    async def signal() -> None:
        await handle.signal(JobWorkflow.retry)

    script.holds["provision"] = signal
    await _failure(handle)
    assert script.attempts == [1]
    await keep("create-retried-too-early", handle)


async def test_workflow_ends_as_failed_when_abandoned(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.abandon)
    await _failure(handle)
    fired = EventType.EVENT_TYPE_TIMER_FIRED
    assert not [event async for event in handle.fetch_history_events() if event.event_type == fired]
    await keep("create-abandoned", handle)


async def test_workflow_ends_as_failed_when_there_is_no_decision_within_the_window(
    start: Start, job: InstanceJob, script: Script, keep: Keep, time_skipping: WorkflowEnvironment
) -> None:
    script.faults["provision"] = [refused("no")]
    started = await time_skipping.get_current_time()
    handle = await start(job)
    await _failure(handle)
    assert await time_skipping.get_current_time() - started >= timedelta(hours=1)
    await keep("create-window-elapsed", handle)


async def test_workflow_continues_as_the_delete_when_it_is_handed_over(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.due = True
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.hand_over, _delete_after(job))
    assert "DeleteInstanceJob" in await handle.result()
    assert script.calls[4:] == ["is_due", "begin", "drop", "finish"]
    description = await handle.describe()
    assert description.workflow_type == "DeleteInstance"
    await keep("create-handed-over-to-delete", handle)


async def test_delete_follows_without_a_gap_when_handed_over_while_the_create_closes(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    handle = await start(job)

    async def hand_over() -> None:
        del script.holds["finish"]  # the other job ends as well
        await handle.signal(JobWorkflow.hand_over, _delete_after(job))

    script.holds["finish"] = hand_over
    assert "DeleteInstanceJob" in await handle.result()
    await keep("create-handed-over-at-the-end", handle)


async def test_job_follows_that_the_instance_waits_for_when_several_were_handed_over(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    handle = await start(job)
    forgotten = replace(_delete_after(job), request="00000000-0000-4000-8000-000000000000")

    async def hand_over() -> None:
        del script.holds["finish"]  # the other job ends as well
        await handle.signal(JobWorkflow.hand_over, forgotten)
        await handle.signal(JobWorkflow.hand_over, _delete_after(job))

    async def wait_for_the_second() -> None:
        script.due = script.calls.count("is_due") == 2

    script.holds = {"finish": hand_over, "is_due": wait_for_the_second}
    assert "DeleteInstanceJob" in await handle.result()
    assert script.calls[-5:] == ["is_due", "is_due", "begin", "drop", "finish"]
    assert script.requests == [job.request, NEXT_REQUEST]
    await keep("create-handed-over-several", handle)


async def test_job_goes_on_when_it_is_handed_to_itself_or_an_older_one(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    handle = await start(replace(job, attempt=2))

    async def hand_over() -> None:
        await handle.signal(JobWorkflow.hand_over, replace(job, attempt=2))
        await handle.signal(JobWorkflow.hand_over, job)

    script.holds["finish"] = hand_over
    assert "CreateInstanceJob" in await handle.result()
    assert script.attempts == [2]
    await keep("create-handed-to-itself", handle)


async def test_earlier_job_is_done_when_the_registry_was_restored_to_where_it_is_due(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    script.due = True
    handle = await start(replace(job, attempt=3))
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.hand_over, job)
    assert "is done" in await handle.result()
    assert script.attempts == [3, 1]
    assert script.calls[4:] == ["is_due", "begin", "provision", "finish"]
    await keep("create-handed-an-earlier-job", handle)


async def test_earlier_job_is_done_when_the_registry_was_restored_to_it_while_a_later_one_worked(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("The instance has moved on to another job or attempt.")]
    script.recorded = False
    handle = await start(replace(job, attempt=3))

    async def hand_over() -> None:
        script.holds = {"begin": record_again}
        await handle.signal(JobWorkflow.hand_over, job)

    async def record_again() -> None:
        script.recorded = True

    script.holds["provision"] = hand_over
    assert "is done" in await handle.result()
    assert script.attempts == [3, 1]
    assert script.calls == ["begin", "provision", "fail", "begin", "provision", "finish"]
    await keep("create-handed-an-earlier-job-while-it-works", handle)


async def test_failed_job_goes_on_waiting_when_it_is_handed_an_earlier_one_that_is_not_due(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(replace(job, attempt=3))
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.hand_over, job)
    await until(lambda: "is_due" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.attempts == [3, 4]
    await keep("create-handed-an-earlier-job-in-vain", handle)


async def test_sql_is_ended_and_the_failure_recorded_when_cancelled_while_cloning(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    cleaned = []

    async def clone() -> None:
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            cleaned.append(True)
            raise

    script.holds["provision"] = clone
    handle = await start(replace(job, policy=replace(job.policy, heartbeat_timeout=1)))
    await until(lambda: "provision" in script.calls)
    await handle.cancel()
    assert isinstance(await _failure(handle), CancelledError)
    assert cleaned == [True]
    assert script.calls == ["begin", "provision", "fail", "compensate"]
    assert script.reasons == ["The job was cancelled."]
    await keep("create-cancelled", handle)


@pytest.mark.parametrize("step", ["begin", "fail", "compensate"])
async def test_cancellation_is_acted_on_afterwards_when_a_step_must_not_be_interrupted(
    start: Start, job: InstanceJob, script: Script, keep: Keep, step: str
) -> None:
    handle = await start(job)
    # The first try of `begin` is part of the workflow task, which a cancellation cannot interrupt anyway.
    worked = ["begin", "provision"]
    before = {"begin": ["begin"], "fail": worked, "compensate": [*worked, "fail"]}

    async def cancel() -> None:
        if script.calls == [*before[step], step]:
            await handle.cancel()

    script.holds[step] = cancel
    if step == "begin":
        script.faults["begin"] = [OSError("registry away")]
    else:
        script.faults["provision"] = [refused("no")]
    assert isinstance(await _failure(handle), CancelledError)
    assert script.calls == ["begin", "begin" if step == "begin" else "provision", "fail", "compensate"]
    await keep(f"create-cancelled-during-{step}", handle)


async def test_job_is_done_when_cancelled_while_that_is_recorded(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    handle = await start(job)

    async def cancel() -> None:
        await handle.cancel()

    script.holds["finish"] = cancel
    script.faults["finish"] = [OSError("registry away")]
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision", "finish", "finish"]
    await keep("create-cancelled-during-finish", handle)


@pytest.mark.parametrize("step", ["finish", "fail"])
async def test_workflow_ends_when_the_instance_has_moved_on_meanwhile(
    start: Start, job: InstanceJob, script: Script, keep: Keep, step: str
) -> None:
    script.recorded = False
    if step == "fail":
        script.faults["provision"] = [refused("no")]
    handle = await start(job)
    assert "no longer due" in await handle.result()
    assert script.calls[-1] == step
    await keep(f"create-moved-on-before-{step}", handle)


async def test_workflow_ends_when_cancelled_while_waiting_for_a_decision(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    await handle.cancel()
    assert isinstance(await _failure(handle), CancelledError)
    assert script.calls.count("fail") == 1
    await keep("create-cancelled-while-waiting", handle)


@pytest.mark.parametrize("moment", ["fail", "compensate", "is_due"])
async def test_cancelled_job_is_not_tried_again_when_a_retry_is_signalled_before_it_has_ended(
    start: Start, job: InstanceJob, script: Script, keep: Keep, moment: str
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)

    async def cancel_and_retry() -> None:
        await handle.cancel()
        await handle.signal(JobWorkflow.retry)

    async def hand_over() -> None:
        await handle.signal(JobWorkflow.hand_over, replace(_delete_after(job), name="Forgotten"))

    script.holds = {"provision": hand_over, moment: cancel_and_retry}
    assert isinstance(await _failure(handle), CancelledError)
    assert script.calls == ["begin", "provision", "fail", "compensate", "is_due"]
    await keep(f"create-cancelled-and-retried-during-{moment}", handle)


async def test_retry_counts_when_a_job_was_handed_over_that_is_not_due(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)

    async def hand_over_and_retry() -> None:
        await handle.signal(JobWorkflow.hand_over, _delete_after(job))
        await handle.signal(JobWorkflow.retry)

    script.holds["compensate"] = hand_over_and_retry
    assert "CreateInstanceJob" in await handle.result()
    assert script.attempts == [1, 2]
    await keep("create-retried-when-handed-over-in-vain", handle)


async def test_failed_job_goes_on_waiting_when_another_one_is_handed_over_during_the_question_about_one(
    start: Start, job: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [refused("no")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)

    async def hand_over_another() -> None:
        script.holds.clear()
        await handle.signal(JobWorkflow.hand_over, replace(_delete_after(job), attempt=7))

    script.holds["is_due"] = hand_over_another
    await handle.signal(JobWorkflow.hand_over, _delete_after(job))
    await until(lambda: script.calls.count("is_due") == 2)
    await handle.signal(JobWorkflow.retry)
    assert "CreateInstanceJob" in await handle.result()
    assert script.attempts == [1, 2]
    await keep("create-handed-over-during-the-question", handle)


async def test_story_is_told_when_an_operator_looks(
    start: Start, job: InstanceJob, script: Script, client: Client
) -> None:
    script.faults["provision"] = [refused("The template is missing.")]
    handle = await start(job)
    await until(lambda: "compensate" in script.calls)
    metadata = await handle.query("__temporal_workflow_metadata")
    assert "The template is missing." in str(metadata)
    assert "Signal `retry`" in str(metadata)
    summaries = [
        client.data_converter.payload_converter.from_payload(event.user_metadata.summary)
        async for event in handle.fetch_history_events()
        if event.user_metadata.HasField("summary")
    ]
    assert summaries[:2] == [
        "Take the instance",
        "Clone template Minimal into EdFi_Ods_Grand_Bend_Minimal",
    ]
    await handle.signal(JobWorkflow.abandon)


def _delete_after(job: InstanceJob) -> InstanceJob:
    return of_kind(job, "Delete", number=2, request=NEXT_REQUEST)
