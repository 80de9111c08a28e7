"""Trace ids of jobs that no request starts: the same wherever such a job is met, without a record of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_trace_id: ContextVar[int | None] = ContextVar("id of the next trace", default=None)

_BITS = 128


def trace_id_of(*identity: str) -> int:
    """The id of the trace of what `identity` names."""
    digest = hashlib.sha256("\0".join(identity).encode()).digest()
    return int.from_bytes(digest[: _BITS // 8]) or 1  # zero is no id


@contextmanager
def next_trace(trace_id: int) -> Iterator[None]:
    """Give a trace that begins in this block this id."""
    token = _trace_id.set(trace_id)
    try:
        yield
    finally:
        _trace_id.reset(token)


class JobIdGenerator(RandomIdGenerator):
    """Random ids, but where `next_trace` says which one."""

    def generate_trace_id(self) -> int:
        """The id of a trace that begins."""
        return _trace_id.get() or super().generate_trace_id()
