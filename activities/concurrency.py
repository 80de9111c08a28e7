"""How many of the databases a worker was asked for it works on at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

SLOT_MISSED = "TurnMissed"
"""Type of the error of an activity whose turn has not come before its worker stopped."""

_NO_PAUSE = timedelta(milliseconds=1)
"""Nothing has failed, so whoever takes over need not wait as after a fault."""


class ConcurrencyLimit:
    """Turns at the databases; who asked first comes first.

    Args:
        at_once: how many there are.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """What the running activity does in its turn.

        Raises:
            ApplicationError: the worker was told to stop before the turn came; the next worker gets to it.
        """
        async with self._free:
            if activity.is_worker_shutdown():
                raise ApplicationError(
                    "The worker stopped before this job had its turn.",
                    type=SLOT_MISSED,
                    next_retry_delay=_NO_PAUSE,
                )
            yield
