"""The workflow that renames an instance."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options, search_attributes
    from workflows.job_workflow import JobWorkflow


@workflow.defn
class RenameInstance(JobWorkflow):
    """Rename the instance's database, then the instance and its ODS instance."""

    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:  # noqa: ARG002 - `__init__` got it, before any signal
        """Carry `job` out; returns how it ended."""
        return await self.run_job()

    async def do_work(self) -> bool:
        """Rename the database, then record `Completed` and the new names."""
        job = self.job
        await self.run_step(DatabaseActivities.rename, f"Rename {job.database} to {job.final_database}")
        done = await self.run_to_completion(
            workflow.execute_activity_method(
                StatusActivities.finish_rename,
                job,
                **options.status_write(job.policy, "Record Completed and update the ODS/API routing"),
            )
        )
        if done:
            workflow.upsert_search_attributes([search_attributes.NAME.value_set(job.final_name)])
        return done

    async def clean_up(self) -> bool:
        """Give the database its old name back, under which the ODS/API goes on using it."""
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"Make sure that the database is named {job.database}"),
        )
        return False
