"""Steps of instances' jobs go first: backups that this process makes pause meanwhile."""

from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.context import job_of
from ods.programs.precedence import PRECEDENCE


class JobsFirst(Interceptor):
    """Of a worker whose activities have backups pause if they are steps of an instance's job."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """What gives an activity precedence."""
        return _FirstActivity(next)


class _FirstActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401 - Temporal's
        """Run the activity."""
        if job_of(input.args) is None:
            return await super().execute_activity(input)
        with PRECEDENCE.step():
            return await super().execute_activity(input)
