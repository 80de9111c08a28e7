"""`CreateInstance` as a later release might have it: one step more, with and without a patch."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.statuses import StatusActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow
    from workflows.jobs import CreateInstance

PATCH = "look-again"


class _OneStepMore(JobWorkflow):
    async def do_work(self) -> bool:
        await self.look_again()
        return await CreateInstance.do_work(self)  # type: ignore[arg-type]  # it needs no more than a JobWorkflow

    async def look_again(self) -> None:
        await workflow.execute_activity_method(
            StatusActivities.begin, self.job, **options.status_write(self.job.policy, "Look again")
        )


@workflow.defn(name="CreateInstance")
class Patched(_OneStepMore):
    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def look_again(self) -> None:
        if workflow.patched(PATCH):
            await super().look_again()


@workflow.defn(name="CreateInstance")
class Unpatched(_OneStepMore):
    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()
