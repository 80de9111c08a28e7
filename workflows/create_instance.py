"""The workflow that creates an instance."""

from dataclasses import replace
from typing import assert_never

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from registry.instances.jobs import InstanceJob
    from registry.instances.origins import BackupOrigin, CopyOrigin, TemplateOrigin
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class CreateInstance(JobWorkflow):
    """Provision a database from the template, then make the ODS/API route to it."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Provision the database, then record `Completed`, unless the first activity has done both."""
        job = self.job
        summary, options_of_try = f"Clone template {job.template} into {job.database}", options.ddl_try
        match job.origin:
            case BackupOrigin(backup_id):
                summary, options_of_try = f"Restore {backup_id} into {job.database}", options.backup_try
            case TemplateOrigin() | CopyOrigin():
                pass
            case _:
                assert_never(job.origin)
        provisioned = await self.run_step(DatabaseActivities.provision, summary, options_of_try)
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
