"""The workflow that deletes an instance."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class DeleteInstance(JobWorkflow):
    """Drop the instance's database, to which the ODS/API stopped routing when the job began."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Drop the database, then record `Deleted`, unless the first activity has done both."""
        job = self.job
        deleted = await self.run_step(DatabaseActivities.drop, f"Drop {job.database}")
        return deleted or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_delete, job, **options.status_write(job.policy, "Record Deleted")
            )
        )

    async def clean_up(self) -> bool:
        """Undo nothing: a retry drops what could not be dropped now."""
        return False
