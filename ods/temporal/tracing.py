"""Traces through Temporal: from the start of a workflow to its activities, and on to jobs handed over to it.

The interceptor of Temporal's SDK writes the context into headers, which a replay does not compare, and makes
no span while a workflow is replayed.
"""

from typing import NoReturn

from temporalio.api.common.v1 import Payload
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import (
    ContinueAsNewInput,
    HandleSignalInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from ods.observability.tracing import provider
from ods.registry.instances.jobs import InstanceJob


class JobTracing(TracingInterceptor):
    """Traces a job in the trace of the request that has asked for it."""

    def __init__(self) -> None:
        super().__init__(provider.tracer())
        self.text_map_propagator = provider.PROPAGATOR

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - Temporal's name
    ) -> type[TracingWorkflowInboundInterceptor]:
        """What traces a workflow."""
        super().workflow_interceptor_class(input)
        return _WorkflowTracing


class _WorkflowTracing(TracingWorkflowInboundInterceptor):
    """Remembers of each job that is handed over to a workflow which request has done that."""

    def __init__(self, next: WorkflowInboundInterceptor) -> None:  # noqa: A002 - Temporal's name
        super().__init__(next)
        self.text_map_propagator = provider.PROPAGATOR
        self.requests: dict[str, Payload] = {}

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """Begin."""
        super().init(_ContinueInTraceOfRequest(outbound, self))

    async def handle_signal(self, input: HandleSignalInput) -> None:  # noqa: A002 - Temporal's name
        """Handle a signal."""
        request = input.headers.get(self.header_key)
        for argument in input.args:
            if request is not None and isinstance(argument, InstanceJob):
                # The first one: a sweep may hand the same job over once more.
                self.requests.setdefault(argument.job_id, request)
        await super().handle_signal(input)


class _ContinueInTraceOfRequest(WorkflowOutboundInterceptor):
    """Has a workflow that continues as another job be in the trace of that job's request."""

    def __init__(self, next: WorkflowOutboundInterceptor, tracing: _WorkflowTracing) -> None:  # noqa: A002
        super().__init__(next)
        self._tracing = tracing

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:  # noqa: A002 - Temporal's name
        """Continue as the job in `input`."""
        for argument in input.args:
            if isinstance(argument, InstanceJob) and argument.job_id in self._tracing.requests:
                request = self._tracing.requests[argument.job_id]
                input.headers = {**input.headers, self._tracing.header_key: request}
        super().continue_as_new(input)
