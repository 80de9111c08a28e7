"""A limit on how many databases a worker creates, renames or drops at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from ods.observability.metrics.catalog import DDL_SLOTS

SLOT_MISSED = "SlotMissed"
"""Type of the error of an activity that had no slot yet when its worker was stopped."""


class ConcurrencyLimit:
    """Slots for work on databases, given out in the order in which they were requested."""

    def __init__(self, at_once: int, tenant: str | None = None) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._tenant = tenant
        self._busy = self._waiting = 0
        self._show()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it while the body runs; not if the worker stops meanwhile."""
        self._count(waiting=1)
        try:
            await self._free.acquire()
        finally:
            self._count(waiting=-1)
        self._count(busy=1)
        try:
            if activity.is_worker_shutdown():
                raise ApplicationError(
                    "The worker was stopped before it could begin this step.",
                    type=SLOT_MISSED,
                    next_retry_delay=timedelta(milliseconds=1),  # nothing has failed
                )
            yield
        finally:
            self._free.release()
            self._count(busy=-1)

    def _count(self, *, busy: int = 0, waiting: int = 0) -> None:
        self._busy += busy
        self._waiting += waiting
        self._show()

    def _show(self) -> None:
        if self._tenant is not None:
            states = {"busy": self._busy, "free": self._at_once - self._busy, "waiting": self._waiting}
            for state, number in states.items():
                DDL_SLOTS.labels(state, self._tenant).set(number)
