"""The workflows that reset an instance, from its template or otherwise, and that undo a reset."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.model.arguments import MakeArguments
from ods.model.origins import FROM_TEMPLATE, BackupOrigin, CopyMode, CopyOrigin, Origin
from ods.registry.instances.jobs import BeginResult, InstanceJob, Replacement
from tests.job_kinds import of_kind
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import WORKFLOW_TYPES, JobWorkflow
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[..., Awaitable[WorkflowHandle[Any, Any]]]

STEPS = {"Reset": "reset", "UndoReset": "reset"}
BACKUP_QUEUE = "queue of what takes long"
CLOSED = CopyOrigin(12, CopyMode.CLOSED, "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f13")
ONLINE = replace(CLOSED, mode=CopyMode.ONLINE)
BACKUP = BackupOrigin("c54a6ca6-2c0b-4b87-9a4e-2f1f1f2f9f7c")


@pytest.fixture
def start(client: Client, queue: str, job: InstanceJob) -> Start:
    async def start(
        kind: str, origin: Origin = FROM_TEMPLATE, *, keeps: bool = True, backup_queue: str = queue
    ) -> WorkflowHandle[Any, Any]:
        replacement = Replacement(
            *("0f6b1f6e-1111-4222-8333-444444444444", "Minimal", 604_800),
            from_trash=kind == "UndoReset",
            by=None,
            keeps=keeps,
            origin=origin,
        )
        policy = replace(job.policy, backup_queue=backup_queue)
        wanted = of_kind(job, kind, number=2, published=True, replacement=replacement, policy=policy)
        if kind == "Reset":
            wanted = replace(wanted, arguments=MakeArguments(origin))
        return await client.start_workflow(
            WORKFLOW_TYPES[wanted.operation], wanted, id=wanted.workflow_id, task_queue=queue
        )

    return start


@pytest.mark.parametrize("kind", STEPS)
async def test_education_organizations_are_read_anew_when_the_databases_were_exchanged(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    script.generation = 4
    handle = await start(kind)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", STEPS[kind], "finish", "request_refresh_of"]
    assert [end.outcome.template_generation for end in script.finished] == [4]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep(f"{kind.lower()}-completed", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_what_was_replaced_is_dropped_when_it_is_not_kept(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    script.finished_on_the_way = True
    handle = await start(kind, keeps=False)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", STEPS[kind], "request_refresh_of", "drop_replaced"]
    await keep(f"{kind.lower()}-not-kept", handle)


async def test_reset_is_done_when_what_follows_it_fails(start: Start, script: Script, keep: Keep) -> None:
    script.faults["request_refresh_of"] = [OSError("registry away")] * 3
    script.faults["drop_replaced"] = [refused("It carries another comment.")]
    handle = await start("Reset", keeps=False)
    assert "is done" in await handle.result()
    await keep("reset-follow-up-failed", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_instance_is_completed_and_the_job_undone_when_the_step_has_failed(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    step = STEPS[kind]
    script.faults[step] = [ApplicationError("Sessions do not end.")] * 3
    handle = await start(kind)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", *[step] * 3, "fail", "compensate"]
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep(f"{kind.lower()}-failed", handle)


async def test_job_is_done_after_all_when_it_had_exchanged_the_databases(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["reset"] = [refused("The connection broke.")]
    script.followed = True
    handle = await start("Reset")
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "reset", "fail", "compensate"]
    await keep("reset-followed", handle)


async def test_reset_is_tried_again_when_the_operator_says_so(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["reset"] = [refused("Sessions of a superuser do not end.")]
    handle = await start("Reset")
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.attempts == [1, 2]
    await keep("reset-retried", handle)


@pytest.mark.parametrize("kind", STEPS)
async def test_nothing_is_done_when_the_job_is_refused_at_its_beginning(
    start: Start, script: Script, keep: Keep, kind: str
) -> None:
    script.begun = BeginResult(held=True, refusal="The instance is protected.")
    handle = await start(kind)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "fail", "compensate"]
    await keep(f"{kind.lower()}-refused", handle)


@pytest.mark.parametrize(
    ("origin", "words"), [(CLOSED, "copy-closed"), (ONLINE, "copy-online"), (BACKUP, "backup")]
)
async def test_reset_is_done_whatever_its_origin_when_nothing_fails(
    start: Start, script: Script, keep: Keep, origin: Origin, words: str
) -> None:
    handle = await start("Reset", origin)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "reset", "finish", "request_refresh_of"]
    await keep(f"replace-{words}-completed", handle)


@pytest.mark.parametrize(
    ("kind", "origin", "takes_long"),
    [
        ("Reset", ONLINE, True),
        ("Reset", BACKUP, True),
        ("Reset", CLOSED, False),
        ("Reset", FROM_TEMPLATE, False),
        ("UndoReset", ONLINE, False),
    ],
)
async def test_reset_takes_no_place_of_other_jobs_when_it_takes_long(
    start: Start, queue: str, kind: str, origin: Origin, *, takes_long: bool
) -> None:
    handle = await start(kind, origin, backup_queue=BACKUP_QUEUE)
    async with asyncio.timeout(10):
        while True:
            events = (await handle.fetch_history()).events
            scheduled = [event.activity_task_scheduled_event_attributes for event in events]
            if found := [one for one in scheduled if one.activity_type.name == STEPS[kind]]:
                break
            await asyncio.sleep(0.01)
    assert found[0].task_queue.name == (BACKUP_QUEUE if takes_long else queue)
    await handle.terminate() if takes_long else await handle.result()


async def test_reset_to_a_copy_is_not_tried_again_when_its_source_cannot_be_copied_any_more(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["reset"] = [refused("The source accepts no connections.")]
    handle = await start("Reset", ONLINE)
    await until(lambda: "compensate" in script.calls)
    script.begun = BeginResult(held=False)
    await handle.signal(JobWorkflow.retry)
    assert "nothing was done" in await handle.result()
    assert script.calls == ["begin", "reset", "fail", "compensate", "begin"]
    await keep("replace-source-gone", handle)


async def test_reset_to_a_backup_is_undone_when_it_is_cancelled(
    start: Start, script: Script, keep: Keep
) -> None:
    async def hold() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)

    script.holds["reset"] = hold
    handle = await start("Reset", BACKUP)
    await until(lambda: "reset" in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "reset", "fail", "compensate"]
    await keep("replace-cancelled", handle)


async def test_status_is_written_in_the_end_when_the_registry_is_away(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["finish"] = [OSError("registry away")] * 5
    handle = await start("Reset")
    await handle.result()
    assert script.calls.count("finish") == 6
    await keep("reset-registry-away", handle)
