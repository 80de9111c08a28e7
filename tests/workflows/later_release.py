"""A purge as a later release might have it, which is told one thing more, and so are its steps."""

from dataclasses import dataclass

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.endings import JobEnd
    from ods.registry.instances.jobs import InstanceJob, JobWait
    from workflows.jobs import PurgeInstance


@dataclass(frozen=True, kw_only=True)
class LaterJob(InstanceJob):
    keep_a_copy: bool


@dataclass(frozen=True, kw_only=True)
class LaterWait(JobWait):
    job: LaterJob


@dataclass(frozen=True, kw_only=True)
class LaterEnd(JobEnd):
    job: LaterJob


@workflow.defn(name="PurgeInstance")
class LaterPurge(PurgeInstance):
    @workflow.init
    def __init__(self, job: LaterJob) -> None:
        super().__init__(job)

    @workflow.run
    async def run(self, job: LaterJob) -> str:  # type: ignore[override]
        return await self.run_job()
