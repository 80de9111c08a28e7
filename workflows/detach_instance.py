"""The workflow that deletes an instance and leaves its database."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows.deletion_workflow import DeletionWorkflow


@workflow.defn
class DetachInstance(DeletionWorkflow):
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
        return await self.do_and_record(
            DatabaseActivities.detach,
            f"Remove the mark of {self.job.database}",
            StatusActivities.finish_delete,
            "Record Deleted",
        )
