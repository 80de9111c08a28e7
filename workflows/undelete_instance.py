"""The workflow that brings a deleted instance back."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class UndeleteInstance(JobWorkflow):
    """Take the instance's database out of the trash, then make the ODS/API route to it."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Take the database out of the trash, then record `Completed` with all that was set aside."""
        job = self.job
        await self.run_step(
            DatabaseActivities.undelete, f"Give {job.trash_database} the name {job.final_database}"
        )
        return await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_undelete,
                job,
                **options.status_write(job.policy, "Record Completed and route the ODS/API"),
            )
        )

    async def clean_up(self) -> bool:
        """Put the database into the trash again."""
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"Make sure that {job.final_database} is in the trash"),
        )
        return False
