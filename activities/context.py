"""What goes around each activity of a worker: what logs and traces say of it, and precedence over backups."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from opentelemetry import trace
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from ods.observability.logs import describe_lines
from ods.observability.tracing import provider
from ods.observability.tracing.attributes import attributes_of
from ods.programs.precedence import PRECEDENCE
from ods.registry.instances.jobs import InstanceJob

_logger = logging.getLogger(__name__)


class ActivityContext(Interceptor):
    """Describes the activities of a worker in logs and traces.

    With `jobs_first`, backups pause while an activity of the worker is a step of an instance's job.
    """

    def __init__(self, tenant: str, *, jobs_first: bool = False) -> None:
        self._tenant = tenant
        self._jobs_first = jobs_first

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002, D102
        return _DescribedActivity(next, self._tenant, jobs_first=self._jobs_first)


class _DescribedActivity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, tenant: str, *, jobs_first: bool) -> None:  # noqa: A002
        super().__init__(next)
        self._tenant = tenant
        self._jobs_first = jobs_first

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401 - Temporal's
        info, job = activity.info(), _job_of(input.args)
        of_job = ("instance_id", "ods_instance_id", "job_id", "attempt")
        fields = {
            "tenant": self._tenant,
            **({name: getattr(job, name) for name in of_job} if job else {}),
            "workflow_id": info.workflow_id,
            "run_id": info.workflow_run_id,
            "trace_id": provider.trace_id(),
        }
        # They stay when the activity has ended: Temporal's own line about a failure is one of this task.
        describe_lines(lambda: fields)
        trace.get_current_span().set_attributes(attributes_of(fields))
        began = time.monotonic()
        _logger.debug("%s begins, try %d.", info.activity_type, info.attempt)
        try:
            with PRECEDENCE.step() if self._jobs_first and job else nullcontext():
                return await super().execute_activity(input)
        finally:
            _logger.debug("%s has ended after %.3f s.", info.activity_type, time.monotonic() - began)


def _job_of(arguments: Sequence[object]) -> InstanceJob | None:
    """The job that is an argument, or that an argument is about."""
    for argument in arguments:
        job = getattr(argument, "job", argument)
        if isinstance(job, InstanceJob):
            return job
    return None
