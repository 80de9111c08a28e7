import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from ods.databases.templates.spare_pool import PruneResult, SpareOrder
from ods.registry.instances.jobs import ExecutionPolicy
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused
from workflows.passes import RefillSpares

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    policy = ExecutionPolicy(queue, 8, 5, 3600, 3600, queue)

    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            RefillSpares.run, policy, id=f"spare-refill-{uuid.uuid4()}", task_queue=queue
        )

    return start


async def test_nothing_is_made_when_no_spare_is_missing(start: Start, script: Script, keep: Keep) -> None:
    script.pruned = PruneResult(3, [])
    handle = await start()
    assert await handle.result() == "3 removed, 0 of 0 missing spares made."
    assert script.calls == ["prune_spares"]
    await keep("refill-nothing", handle)


async def test_spares_are_made_one_after_the_other_after_all_requests_when_some_are_missing(
    start: Start, script: Script, keep: Keep
) -> None:
    script.pruned = PruneResult(0, [SpareOrder("s1", "A"), SpareOrder("s2", "B"), SpareOrder("s3", "A")])
    script.faults["replenish_spare s2"] = [OSError("server away")]
    handle = await start()
    assert await handle.result() == "0 removed, 3 of 3 missing spares made."
    assert script.calls == ["prune_spares", *(f"replenish_spare {name}" for name in ("s1", "s2", "s2", "s3"))]
    history = await handle.fetch_history()
    scheduled = [event.activity_task_scheduled_event_attributes for event in history.events]
    assert {it.priority.priority_key for it in scheduled if it.activity_id} == {5}
    await keep("refill-missing", handle)


async def test_other_templates_are_served_and_the_fault_is_told_when_one_cannot_be_copied(
    start: Start, script: Script, keep: Keep
) -> None:
    script.pruned = PruneResult(0, [SpareOrder("s1", "A"), SpareOrder("s2", "B"), SpareOrder("s3", "A")])
    script.faults["replenish_spare s1"] = [refused("The template is open.")]
    handle = await start()
    assert await handle.result() == "0 removed, 1 of 3 missing spares made."
    assert script.calls == ["prune_spares", "replenish_spare s1", "replenish_spare s2"]
    assert "**A**: The template is open." in str(await handle.query("__temporal_workflow_metadata"))
    await keep("refill-template-open", handle)


async def test_pass_gives_up_soon_when_nothing_can_be_made(start: Start, script: Script, keep: Keep) -> None:
    script.pruned = PruneResult(0, [SpareOrder("s1", "A")])
    script.faults["replenish_spare s1"] = [OSError("server away")] * 3
    handle = await start()
    assert await handle.result() == "0 removed, 0 of 1 missing spares made."
    assert script.calls.count("replenish_spare s1") == 3
    await keep("refill-given-up", handle)


async def test_pass_fails_when_the_server_cannot_be_looked_at(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["prune_spares"] = [OSError("server away")] * 3
    handle = await start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await keep("refill-server-away", handle)
