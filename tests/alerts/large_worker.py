"""`python -m tests.alerts.large_worker`: a worker whose `CreateInstance` hands five megabytes to a step."""

import asyncio

from temporalio import workflow

import worker
from ods.observability.logs import configure_logging
from ods.registry.instances.jobs import InstanceJob
from workflows import options
from workflows.job_workflow import JobWorkflow

_BYTES = 5_000_000
"""More than Temporal accepts in a message."""
_PAUSE_SECONDS = 0.1


@workflow.defn(name="CreateInstance")
class Large(JobWorkflow):
    @workflow.init
    def __init__(self, job: InstanceJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: InstanceJob) -> str:
        return await self.run_job()

    async def do_work(self) -> bool:
        await workflow.sleep(_PAUSE_SECONDS)  # ends the first task: from then on the job is this version's
        await workflow.execute_activity(
            "begin",
            args=[self.job, "x" * _BYTES],
            **options.status_write(self.job.policy, "Say too much"),
        )
        return True

    async def clean_up(self) -> bool:
        return True


if __name__ == "__main__":
    configure_logging()
    worker.WORKFLOWS[0] = Large
    asyncio.run(worker.main())
