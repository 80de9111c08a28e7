"""The workflow that deletes an instance whose database goes to the trash."""

from dataclasses import replace

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.final_backups import FollowingPurges
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.deletion_workflow import DeletionWorkflow


@workflow.defn
class TrashInstance(DeletionWorkflow):
    """Move the instance's database to the trash; the ODS/API stopped routing to it when the job began."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Move the database, then record `Deleted`, unless the first activity has done both.

        If the client has requested a purge as well, this workflow continues as that.
        """
        job = self.job
        result = await self.run_step(DatabaseActivities.trash, f"Move {job.database} to {job.trash_database}")
        ended = job if result.kept else replace(job, trash_database=None)
        is_done = result.finished or await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_delete, ended, **options.status_write(job.policy, "Record Deleted")
            )
        )
        if is_done and job.purge_follows:
            await self._follow_with_purge()
        return is_done

    async def _follow_with_purge(self) -> None:
        purge = await self.run_to_completion(
            workflow.execute_activity_method(
                FollowingPurges.request_purge_after,
                self.job,
                **options.status_write(self.job.policy, "Request the purge"),
            )
        )
        if purge is not None:
            self.hand_over(purge)
