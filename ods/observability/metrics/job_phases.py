"""How long the phases of a job take, measured where each of them happens.

What makes databases also makes spares and loads templates: only what is done for a job is measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from ods.observability.metrics.catalog import JOB_SECONDS

_operation: ContextVar[str | None] = ContextVar("operation of the job", default=None)


@contextmanager
def measured_job(operation: str) -> Iterator[None]:
    """Measure the phases within the block as those of a job with this operation."""
    token = _operation.set(operation)
    try:
        yield
    finally:
        _operation.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """A phase of the job that this task works on; not measured if it fails, or is no job's."""
    started = perf_counter()
    yield
    if (operation := _operation.get()) is not None:
        JOB_SECONDS.labels(operation, name).observe(perf_counter() - started)
