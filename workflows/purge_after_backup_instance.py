"""The workflow that backs a deleted instance's database up, and drops it for good."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.backup_verification import VerificationActivities
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.deletion_workflow import DeletionWorkflow


@workflow.defn
class PurgeAfterBackupInstance(DeletionWorkflow):
    """Drop the instance's database from the trash once a verified backup of it is stored."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Store a backup and verify it, each unless an earlier attempt has; then drop, and record it."""
        job = self.job
        is_there = await self.run_step(
            DatabaseActivities.back_up_trash, f"Back up {job.trash_database}", options.backup_try
        )
        if is_there:
            await self.run_step(
                VerificationActivities.verify_final_backup,
                f"Verify the backup {job.makes_backup}",
                options.backup_try,
            )
        return await self.do_and_record(
            DatabaseActivities.purge_backed_up,
            f"Drop {job.trash_database}",
            StatusActivities.finish_purge,
            "Record the purge",
        )

    async def clean_up(self) -> bool:
        """Close the database in the trash: a worker that died may have left it open."""
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"Make sure that {job.trash_database} is closed"),
        )
        return False
