"""Instances that are made of a backup: what of their workflow is not that of any create."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ods.model.origins import BackupOrigin
from ods.registry.instances.jobs import InstanceJob
from tests.job_kinds import made_of
from tests.workflows.conftest import Keep
from tests.workflows.script import Script, until
from workflows.job_workflow import JobWorkflow
from workflows.jobs import CreateInstance

Start: TypeAlias = Callable[[InstanceJob], Awaitable[WorkflowHandle[Any, str]]]


@pytest.fixture
def restore(job: InstanceJob) -> InstanceJob:
    return made_of(job, BackupOrigin("c54a6ca6-2c0b-4b87-9a4e-2f1f1f2f9f7c"))


@pytest.fixture
def start(client: Client, queue: str) -> Start:
    async def start(job: InstanceJob) -> WorkflowHandle[Any, str]:
        return await client.start_workflow(CreateInstance.run, job, id=job.workflow_id, task_queue=queue)

    return start


async def test_backup_is_restored_on_the_queue_of_backups_when_nothing_fails(
    start: Start, restore: InstanceJob, queue: str, script: Script, keep: Keep
) -> None:
    policy = replace(restore.policy, backup_queue=queue, ddl_queue="queue of jobs with DDL")
    handle = await start(replace(restore, policy=policy))
    assert "is done" in await handle.result()
    assert script.calls == ["begin", "provision", "finish"]
    await keep("restore-completed", handle)


async def test_restore_is_undone_and_retried_when_it_has_failed_too_often(
    start: Start, restore: InstanceJob, script: Script, keep: Keep
) -> None:
    script.faults["provision"] = [ApplicationError("It is damaged.", type="BackupFaultError")] * 3
    handle = await start(restore)
    await until(lambda: "compensate" in script.calls)
    await handle.signal(JobWorkflow.retry)
    assert "is done" in await handle.result()
    assert script.calls == [
        *("begin", *["provision"] * 3, "fail", "compensate"),
        *("begin", "provision", "finish"),
    ]
    await keep("restore-retried", handle)
