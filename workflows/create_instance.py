"""The workflows that create an instance: of a template, as a copy of another one, and of a backup."""

from dataclasses import replace
from typing import assert_never

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from ods.registry.instances.origins import BackupOrigin, CopyOrigin, TemplateOrigin
    from workflows import options
    from workflows.job_workflow import JobWorkflow


class MakingWorkflow(JobWorkflow):
    """Provision a database of the job's origin, then make the ODS/API route to it."""

    async def do_work(self) -> bool:
        """Provision the database, then record `Completed`, unless the first activity has done both."""
        job = self.job
        provisioned = await self.run_step(
            DatabaseActivities.provision, f"{_work(job)} into {job.database}", options.making_try(job.origin)
        )
        return provisioned.finished or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_create,
                replace(job, template_generation=provisioned.template_generation),
                **options.status_write(job.policy, "Record Completed and route the ODS/API"),
            )
        )

    async def clean_up(self) -> bool:
        """Drop a database that was not published yet; if it was published, make the instance `Completed`."""
        job = self.job
        return bool(
            await workflow.execute_activity_method(
                DatabaseActivities.compensate,
                job,
                **options.clean_up(job.policy, f"Remove what was made of {job.database}"),
            )
        )


@workflow.defn
class CreateInstance(MakingWorkflow):
    """Make an instance of its template."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()


@workflow.defn
class CopyInstance(MakingWorkflow):
    """Make an instance that is a copy of another one."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()


@workflow.defn
class RestoreInstance(MakingWorkflow):
    """Make an instance of a backup."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()


def _work(job: InstanceJob) -> str:
    origin = job.origin
    match origin:
        case TemplateOrigin():
            return f"Clone template {job.template}"
        case CopyOrigin():
            return f"Copy the instance {origin.instance_id}, {origin.mode},"
        case BackupOrigin():
            return f"Restore the backup {origin.backup_id}"
        case _:
            assert_never(origin)
