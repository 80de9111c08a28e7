"""A limit on how many databases a worker creates, renames or drops at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

SLOT_MISSED = "TurnMissed"
"""Error type, as histories have it, of an activity that had no slot yet when its worker was stopped."""

_NO_PAUSE = timedelta(milliseconds=1)
"""Nothing has failed, so the worker that takes over need not wait as after a fault."""


class ConcurrencyLimit:
    """Slots for work on databases, given out in the order in which they were requested.

    Args:
        at_once: number of slots.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it while the body runs.

        Raises:
            ApplicationError: the worker was told to stop before a slot was free; another worker tries again.
        """
        async with self._free:
            if activity.is_worker_shutdown():
                raise ApplicationError(
                    "The worker was stopped before it could begin this step.",
                    type=SLOT_MISSED,
                    next_retry_delay=_NO_PAUSE,
                )
            yield
