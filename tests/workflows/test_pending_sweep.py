import uuid

from temporalio.client import Client

from activities.passes import SweepResult
from tests.workflows.conftest import Keep
from tests.workflows.script import Script
from workflows.passes import PendingSweep


async def test_rows_are_dispatched_page_by_page_when_there_are_many(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.pages = [SweepResult(100, 140), SweepResult(30, 171), SweepResult(0, None)]
    handle = await client.start_workflow(PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == 130
    assert script.calls == [
        "dispatch_page after 0",
        "dispatch_page after 140",
        "dispatch_page after 171",
        "dispatch_refreshes",
    ]
    await keep("sweep-pages", handle)


async def test_rest_is_dispatched_and_the_refused_are_counted_when_temporal_refuses_some(
    client: Client, queue: str, script: Script
) -> None:
    script.pages = [
        SweepResult(98, 140, ["CreateInstanceJob-7-1", "b"]),
        SweepResult(0, 141, ["c"]),
        SweepResult(0, None),
    ]
    handle = await client.start_workflow(PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == 98
    details = str(await handle.query("__temporal_workflow_metadata"))
    assert "98 waiting rows dispatched so far. Temporal refused 3, which the results" in details


async def test_refreshes_are_dispatched_when_no_row_waits(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.pages = [SweepResult(0, None)]
    handle = await client.start_workflow(PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == 0
    assert script.calls == ["dispatch_page after 0", "dispatch_refreshes"]
    await keep("sweep-refreshes", handle)


async def test_sweep_goes_on_when_the_registry_was_away(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.pages = [SweepResult(0, None)]
    script.faults["dispatch_page after 0"] = [OSError("registry away")] * 10
    handle = await client.start_workflow(PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == 0
    await keep("sweep-registry-away", handle)


async def test_sweep_continues_as_new_when_its_history_holds_enough_pages(
    client: Client, queue: str, script: Script, keep: Keep
) -> None:
    script.pages = [SweepResult(100, 100 * number) for number in range(1, 52)] + [SweepResult(0, None)]
    handle = await client.start_workflow(PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=queue)
    assert await handle.result() == 5_100
    assert script.calls[-3:] == ["dispatch_page after 5000", "dispatch_page after 5100", "dispatch_refreshes"]
    assert len(script.calls) == 53
    first = await client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).fetch_history()
    assert len(first.events) < 1_000
    await keep("sweep-continued", handle)
