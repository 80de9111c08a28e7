"""What the workflows that delete an instance, or what is left of it, share."""

from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.databases import DatabaseActivities
    from ods.registry.instances.jobs import InstanceJob
    from workflows import options
    from workflows.job_workflow import JobWorkflow


class DeletionWorkflow(JobWorkflow):
    """A job that does one thing to the database and records it; a retry goes on where it has failed."""

    async def do_and_record(
        self,
        activity: Callable[[Any, InstanceJob], Awaitable[bool]],
        summary: str,
        record: Callable[[Any, InstanceJob], Awaitable[bool]],
        record_summary: str,
    ) -> bool:
        """Run `activity`, then `record`, unless the first has done both; false if the instance has moved on.

        Raises:
            ActivityError: the last attempt has failed, or an outage lasted longer than the policy allows.
        """
        return await self.run_step(activity, summary) or await self.run_to_completion(
            workflow.execute_activity_method(
                record, self.job, **options.status_write(self.job.policy, record_summary)
            )
        )

    async def clean_up(self) -> bool:
        """End the session of a suspended worker, which would drop the database when it goes on.

        `fail` has done that already, unless the server did not answer in time. A database that was closed for
        its DROP is opened again; a retry does what could not be done now.
        """
        job = self.job
        await workflow.execute_activity_method(
            DatabaseActivities.compensate,
            job,
            **options.clean_up(job.policy, f"End what still works on the database of {job.name}"),
        )
        return False
