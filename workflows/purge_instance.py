"""The workflow that drops a deleted instance's database for good."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows.deletion_workflow import DeletionWorkflow


@workflow.defn
class PurgeInstance(DeletionWorkflow):
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
        return await self.do_and_record(
            DatabaseActivities.purge,
            f"Drop {self.job.trash_database}",
            StatusActivities.finish_purge,
            "Record the purge",
        )
