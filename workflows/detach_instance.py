"""The workflow that deletes an instance and leaves its database."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class DetachInstance(JobWorkflow):
    """Remove the mark of the instance's database, which is left to the operator."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Let the database go, then record `Deleted`, unless the first activity has done both."""
        job = self.job
        detached = await self.run_step(DatabaseActivities.detach, f"Remove the mark of {job.database}")
        return detached or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_delete, job, **options.status_write(job.policy, "Record Deleted")
            )
        )

    async def clean_up(self) -> bool:
        """Undo nothing: a retry lets go what could not be let go now."""
        return False
