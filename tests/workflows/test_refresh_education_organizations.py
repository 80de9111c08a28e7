import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker

from activities.education_organizations import PageRead
from ods.embedded.polling import wait_until
from ods.model.operations import JobStatus
from ods.registry.education_organizations.refreshes import RefreshPolicy, Scope
from tests.workflows.conftest import Keep
from tests.workflows.sandbox import Sandbox
from tests.workflows.script import Script, until
from workflows.passes import ScheduledRefresh
from workflows.refresh_education_organizations import Refresh, RefreshEducationOrganizations

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]
NO_MORE = PageRead(0, 0, [], None)
AWAY = "'East' (id 60): the server cannot be reached"


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    """Starts a refresh of everything."""

    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            RefreshEducationOrganizations.run,
            Refresh(Scope(None), RefreshPolicy(queue=queue, heartbeat_timeout=5)),
            id=f"refresh-{uuid.uuid4()}",
            task_queue=queue,
        )

    return start


async def test_every_page_is_read_when_a_job_is_due(start: Start, script: Script, keep: Keep) -> None:
    script.refreshes = ["job-1"]
    script.read = [PageRead(50, 0, [], 50), PageRead(3, 0, [], 53), NO_MORE]
    handle = await start()
    assert await handle.result() == "job-1 is Completed."
    assert script.calls[:2] == ["begin_refresh", "read_page after 0"]
    assert script.calls[2:] == ["read_page after 50", "read_page after 53", "finish_refresh", "begin_refresh"]
    assert [(one.status, one.message) for one in script.results] == [(JobStatus.COMPLETED, None)]
    await keep("refresh-pages", handle)


async def test_job_is_completed_and_tells_which_when_some_databases_could_not_be_read(
    start: Start, script: Script, keep: Keep
) -> None:
    script.refreshes = ["job-1"]
    script.read = [PageRead(49, 1, [AWAY], 60), PageRead(0, 30, [AWAY] * 20, 90), NO_MORE]
    handle = await start()
    await handle.result()
    (result,) = script.results
    assert result.status is JobStatus.COMPLETED
    assert result.message is not None
    assert result.message.startswith(
        "31 of 80 ODS instances could not be read, and keep what was read earlier: "
    )
    assert result.message.count(AWAY) == 20
    assert result.message.endswith("; and 11 more.")
    await keep("refresh-unreadable", handle)


async def test_job_fails_when_no_database_could_be_read(start: Start, script: Script) -> None:
    script.refreshes = ["job-1"]
    script.read = [PageRead(0, 1, [AWAY], 60), NO_MORE]
    await (await start()).result()
    (result,) = script.results
    assert result.status is JobStatus.ERROR
    assert result.message == (
        f"1 of 1 ODS instances could not be read, and keep what was read earlier: {AWAY}."
    )


async def test_workflow_ends_when_nothing_is_due(start: Start, script: Script, keep: Keep) -> None:
    handle = await start()
    assert await handle.result() == "Nothing was requested."
    assert set(script.calls) == {"begin_refresh"}
    await keep("refresh-nothing", handle)


async def test_next_job_is_carried_out_when_it_was_requested_while_the_workflow_was_ending(
    start: Start, script: Script, keep: Keep
) -> None:
    script.refreshes = ["job-1"]
    script.read = [NO_MORE, NO_MORE]
    started = await start()

    async def request_another() -> None:
        if script.calls.count("begin_refresh") == 2:  # which has found nothing
            script.refreshes = ["job-2"]
            await started.signal(RefreshEducationOrganizations.request)

    script.holds["begin_refresh"] = request_another
    assert await started.result() == "job-2 is Completed."
    assert [one.job_id for one in script.results] == ["job-1", "job-2"]
    await keep("refresh-requested-again", started)


async def test_workflow_continues_as_new_when_its_history_holds_enough_pages(
    start: Start, script: Script, client: Client, keep: Keep
) -> None:
    script.refreshes = ["job-1"]
    script.read = [PageRead(49, 1, [], 50 * number) for number in range(1, 53)] + [NO_MORE]
    handle = await start()
    assert (await handle.result()).startswith(
        "job-1 is Completed. 52 of 2600 ODS instances could not be read"
    )
    first = await client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).fetch_history()
    assert len(first.events) < 500
    await keep("refresh-continued", handle)


async def test_job_fails_when_the_registry_is_away_for_long(start: Start, script: Script, keep: Keep) -> None:
    script.refreshes = ["job-1"]
    script.faults["read_page after 0"] = [OSError("registry away")] * 25
    handle = await start()
    await handle.result()
    (result,) = script.results
    assert result.status is JobStatus.ERROR
    assert "The registry could not be reached" in str(result.message)
    await keep("refresh-registry-away", handle)


async def test_job_goes_on_when_the_registry_was_away(start: Start, script: Script) -> None:
    script.refreshes = ["job-1"]
    script.read = [NO_MORE]
    for step in ("begin_refresh", "read_page after 0", "finish_refresh"):
        script.faults[step] = [OSError("registry away")] * 3
    assert await (await start()).result() == "job-1 is Completed."


async def test_job_fails_when_the_workflow_is_cancelled(start: Start, script: Script, keep: Keep) -> None:
    script.refreshes = ["job-1"]
    handle = await start()

    async def cancelled() -> None:
        await handle.cancel()
        await until(lambda: "finish_refresh" in script.calls)

    script.read = [NO_MORE]
    script.holds["read_page after 0"] = cancelled
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    (result,) = script.results
    assert (result.status, result.message) == (
        JobStatus.ERROR,
        "The refresh was cancelled. Request another one.",
    )
    await keep("refresh-cancelled", handle)


async def test_next_job_is_carried_out_when_the_one_before_is_cancelled_while_it_reads(
    start: Start, script: Script, keep: Keep
) -> None:
    script.refreshes, script.read = ["job-1"], [NO_MORE, NO_MORE]
    handle = await start()

    async def cancel() -> None:
        del script.holds["read_page after 0"]
        script.refreshes = ["job-2"]
        for job_id in ("job-0", "job-1"):  # the first has ended long since
            await handle.signal(RefreshEducationOrganizations.cancel_job, job_id)
        await until(lambda: "finish_refresh" in script.calls)

    script.holds["read_page after 0"] = cancel
    assert await handle.result() == "job-2 is Completed."
    assert [(one.job_id, one.status, one.message) for one in script.results] == [
        ("job-1", JobStatus.ERROR, "The refresh was cancelled. Request another one."),
        ("job-2", JobStatus.COMPLETED, None),
    ]
    await keep("refresh-job-cancelled", handle)


async def test_job_is_cancelled_when_that_is_asked_while_the_last_page_of_a_run_is_read(
    client: Client, script: Script, keep: Keep
) -> None:
    script.refreshes = ["job-1"]
    script.read = [PageRead(50, 0, [], 50 * number) for number in range(1, 53)] + [NO_MORE]
    queue = f"queue-{uuid.uuid4().hex}"

    def deciding() -> Worker:
        """Decides on the workflow, from its history alone."""
        return Worker(
            client,
            task_queue=queue,
            workflows=[RefreshEducationOrganizations],
            workflow_runner=Sandbox(),
            max_cached_workflows=0,
        )

    async def cancel() -> None:
        await first.shutdown()  # so that the next one learns of cancellation and page at once
        await handle.signal(RefreshEducationOrganizations.cancel_job, "job-1")

    script.holds["read_page after 2450"] = cancel
    first = deciding()
    async with Worker(client, task_queue=queue, activities=script.activities):
        handle = await client.start_workflow(
            RefreshEducationOrganizations.run,
            Refresh(Scope(None), RefreshPolicy(queue=queue, heartbeat_timeout=30)),
            id=f"refresh-{uuid.uuid4()}",
            task_queue=queue,
        )
        await first.run()
        await _page_is_read(handle, 50)
        async with deciding():
            assert await handle.result() == "job-1 is Error. The refresh was cancelled. Request another one."
    assert [one.status for one in script.results] == [JobStatus.ERROR]
    await keep("refresh-cancelled-with-the-last-page-of-a-run", handle)


async def _page_is_read(handle: WorkflowHandle[Any, str], number: int) -> None:
    """Wait until so many pages have been read, as the workflow's history has it."""

    async def is_read() -> bool:
        events = (await handle.fetch_history()).events
        done = [event for event in events if event.HasField("activity_task_completed_event_attributes")]
        return len(done) == 1 + number  # the first has begun the job

    await wait_until(is_read, 20)


async def test_refresh_is_requested_when_the_schedule_says_so(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.faults["request_refresh"] = [OSError("registry away")]
    handle = await client.start_workflow(
        ScheduledRefresh.run, id=f"scheduled-{uuid.uuid4()}", task_queue=queue
    )
    await handle.result()
    assert script.calls == ["request_refresh"] * 2
    await keep("refresh-scheduled", handle)
