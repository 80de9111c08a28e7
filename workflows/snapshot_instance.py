"""The workflow that makes a snapshot of an instance for readers."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.snapshots import SnapshotActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class SnapshotInstance(JobWorkflow):
    """Copy the instance's database, which goes on being used, then have the ODS/API read the copy."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Make the copy, then record it, unless the first activity has done both."""
        job = self.job
        is_recorded = await self.run_step(DatabaseActivities.snapshot, f"Copy {job.database} for readers")
        return is_recorded or await self.run_to_completion(
            workflow.execute_activity_method(
                SnapshotActivities.finish_snapshot,
                job,
                **options.status_write(job.policy, "Record the snapshot and switch the ODS/API to it"),
            )
        )

    async def clean_up(self) -> bool:
        """Drop what was made of the copy; the earlier snapshot stays."""
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"Drop the unfinished snapshot of {job.database}"),
        )
        return False
