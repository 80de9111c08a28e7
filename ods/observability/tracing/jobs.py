"""Traces of jobs that another process starts later: the sweep, the reconcile pass.

The request that asks for such a job has a trace of its own. Where the job waits, and where it is started, a
span begins in the trace of the job, whose id is made from the job's; links lead from each to the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link

from ods.observability.tracing import provider


@contextmanager
def job_span(name: str, *identity: str) -> Iterator[None]:
    """A span in the trace of a job, linked with the span that it is made in.

    Args:
        name: of the span.
        identity: what names the job, and no other.
    """
    if not provider.is_on():
        yield
        return
    from ods.observability.tracing.ids import next_trace, trace_id_of  # noqa: PLC0415 - it needs the SDK

    current = trace.get_current_span()
    links = [Link(current.get_span_context())] if current.get_span_context().is_valid else []
    with next_trace(trace_id_of(*identity)):
        span = provider.tracer().start_span(name, Context(), links=links)
    if current.is_recording():
        current.add_link(span.get_span_context())
    with trace.use_span(span, end_on_exit=True, record_exception=False):
        yield
