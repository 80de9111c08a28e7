"""Backups of instances, and their verification: each path of the workflows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities.backup_verification import Verdict, Verification
from ods.registry.instances.jobs import InstanceJob
from tests.job_kinds import of_kind
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, refused, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import BackupInstance, VerifyBackup
from workflows.search_attributes import STATUS

Start: TypeAlias = Callable[[], Awaitable[WorkflowHandle[Any, str]]]

BACKUP_ID = "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f12"


@pytest.fixture
def backup(job: InstanceJob) -> InstanceJob:
    return of_kind(job, "Backup", number=2, published=True, request=BACKUP_ID)


@pytest.fixture
def start(client: Client, queue: str, backup: InstanceJob) -> Start:
    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            BackupInstance.run, backup, id=backup.workflow_id, task_queue=queue
        )

    return start


@pytest.fixture
def verification(backup: InstanceJob) -> Verification:
    # The id of the workflow is that of a backup, which no other test may have.
    return Verification(backup.tenant, f"{BACKUP_ID}-{backup.ods_instance_id}", backup.policy)


@pytest.fixture
def verify(client: Client, queue: str, verification: Verification) -> Start:
    async def start() -> WorkflowHandle[Any, str]:
        return await client.start_workflow(
            VerifyBackup.run, verification, id=verification.workflow_id, task_queue=queue
        )

    return start


async def test_backup_is_stored_and_recorded_when_nothing_fails(
    start: Start, script: Script, keep: Keep, backup: InstanceJob
) -> None:
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "back_up", "finish_backup"]
    (finished,) = script.finished_backups
    assert (finished.job, finished.stored) == (backup, script.stored)
    assert (await handle.describe()).typed_search_attributes[STATUS] == "Completed"
    await keep("backup-completed", handle)


async def test_backup_is_verified_by_a_workflow_of_its_own_when_that_is_due(
    start: Start, script: Script, keep: Keep
) -> None:
    script.verify = True
    handle = await start()
    assert "is done" in await handle.result()
    await until(lambda: bool(script.verdicts))
    assert script.verdicts == [Verdict(BACKUP_ID, None)]
    await keep("backup-verified", handle)


async def test_instance_is_completed_and_the_job_can_be_retried_when_the_backup_has_failed(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["back_up"] = [refused("The store is full.")]
    handle = await start()
    await until(lambda: "fail" in script.calls)
    await asyncio.wait_for(_has_status(handle, "Completed"), 10)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "back_up", "fail", "compensate", "begin", "back_up", "finish_backup"]
    assert (script.reasons, script.attempts) == (["The store is full."], [1, 2])
    await keep("backup-retried", handle)


async def _has_status(handle: WorkflowHandle[Any, str], status: str) -> None:
    while (await handle.describe()).typed_search_attributes.get(STATUS) != status:
        await asyncio.sleep(0.01)


async def test_job_fails_when_pg_dump_has_failed_as_often_as_the_job_has_attempts(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["back_up"] = [ApplicationError("pg_dump has failed.", type="DumpFailedError")] * 3
    handle = await start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", *["back_up"] * 3, "fail", "compensate"]
    await keep("backup-failed", handle)


async def test_nothing_is_recorded_when_the_backup_is_cancelled(
    client: Client, queue: str, script: Script, keep: Keep, backup: InstanceJob
) -> None:
    async def hold() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)

    script.holds["back_up"] = hold
    impatient = replace(backup, policy=replace(backup.policy, heartbeat_timeout=1))
    handle = await client.start_workflow(
        BackupInstance.run, impatient, id=backup.workflow_id, task_queue=queue
    )
    await until(lambda: "back_up" in script.calls)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert script.calls == ["begin", "back_up", "fail", "compensate"]
    assert script.reasons == ["The job was cancelled."]
    await keep("backup-cancelled", handle)


async def test_stored_backup_is_recorded_in_the_end_when_the_registry_is_away(
    start: Start, script: Script, keep: Keep
) -> None:
    script.faults["finish_backup"] = [OSError("registry away")] * 5
    handle = await start()
    assert "is done" in await handle.result()
    assert script.calls.count("back_up") == 1
    assert script.calls.count("finish_backup") == 6
    await keep("backup-registry-away", handle)


async def test_nothing_is_done_when_the_instance_has_moved_on(
    start: Start, script: Script, keep: Keep
) -> None:
    script.recorded = False
    handle = await start()
    assert "no longer due" in await handle.result()
    await keep("backup-moved-on", handle)


@pytest.mark.parametrize("difference", [None, "The table dbo.nothing is missing."])
async def test_verdict_is_recorded_when_a_backup_was_compared(
    verify: Start, verification: Verification, script: Script, keep: Keep, difference: str | None
) -> None:
    script.difference = difference
    handle = await verify()
    assert await handle.result() == (difference or "The backup is whole.")
    assert script.verdicts == [Verdict(verification.backup_id, difference)]
    await keep(f"verification-{'failed' if difference else 'passed'}", handle)


async def test_reason_is_the_verdict_when_a_backup_cannot_be_read(
    verify: Start, verification: Verification, script: Script, keep: Keep
) -> None:
    script.faults["verify_backup"] = [
        ApplicationError("The store cannot be reached.", type="Outage"),
        refused("The backup is damaged."),
    ]
    handle = await verify()
    assert await handle.result() == "The backup is damaged."
    assert script.verdicts == [Verdict(verification.backup_id, "The backup is damaged.")]
    await keep("verification-damaged", handle)


async def test_backup_is_verified_again_when_that_is_requested_while_the_verdict_is_recorded(
    verify: Start, script: Script, keep: Keep
) -> None:
    async def request() -> None:
        del script.holds["finish_verification"]
        await handle.signal(VerifyBackup.request)

    script.holds["finish_verification"] = request
    handle = await verify()
    assert await handle.result() == "The backup is whole."
    assert script.calls == ["verify_backup", "finish_verification"] * 2
    await keep("verification-requested-again", handle)
