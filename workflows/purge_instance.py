"""The workflow that drops a deleted instance's database for good."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class PurgeInstance(JobWorkflow):
    """Drop the instance's database from the trash."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Drop the database, then record it, unless the first activity has done both."""
        job = self.job
        purged = await self.run_step(DatabaseActivities.purge, f"Drop {job.trash_database}")
        return purged or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_purge, job, **options.status_write(job.policy, "Record the purge")
            )
        )

    async def clean_up(self) -> bool:
        """Undo nothing: what is not dropped is in the trash, where it can still be undeleted or purged."""
        return False
