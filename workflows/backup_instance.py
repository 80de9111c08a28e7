"""The workflow that makes a backup of an instance."""

from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.backup_verification import Verification
    from activities.backups import BackupActivities
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.backups.stored import FinishedBackup
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow
    from workflows.verify_backup import VerifyBackup


@workflow.defn
class BackupInstance(JobWorkflow):
    """Store a backup of the instance's database, then record it; the instance goes on being used."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Store the backup, then record it."""
        job = self.job
        stored = await self.run_step(BackupActivities.back_up, f"Back up {job.database}", options.backup_try)
        result = await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_backup,
                FinishedBackup(job, stored),
                **options.status_write(job.policy, "Record the backup"),
            )
        )
        if result.verify and job.makes_backup is not None:
            await self._verify(Verification(job.tenant, job.makes_backup, job.policy))
        return result.recorded

    async def _verify(self, verification: Verification) -> None:
        """Have the backup verified by a workflow of its own: the instance need not wait for that."""
        with suppress(FailureError):  # the next pass starts it
            await self.run_to_completion(
                workflow.start_child_workflow(
                    VerifyBackup.run,
                    verification,
                    id=verification.workflow_id,
                    parent_close_policy=ParentClosePolicy.ABANDON,
                    task_timeout=options.WORKFLOW_TASK_TIMEOUT,
                    static_summary=f"Verify the backup {verification.backup_id}",
                )
            )

    async def clean_up(self) -> bool:
        """End the pg_dump of a worker that is suspended, or cannot reach Temporal; the instance works.

        What was stored has no manifest, and is removed by a pass.
        """
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"End what still reads {job.database}"),
        )
        return False
