"""Heartbeats of an activity, sent by a task beside the statement that it awaits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from temporalio import activity

_BEATS_PER_TIMEOUT = 4


@asynccontextmanager
async def heartbeats(details: Callable[[], Sequence[object]] = tuple) -> AsyncIterator[None]:
    """Heartbeat four times per heartbeat timeout while the body runs.

    So Temporal notices within the timeout that the worker was killed.

    Args:
        details: what the Web UI shows of the activity while it runs, asked at each heartbeat.
    """
    timeout = activity.info().heartbeat_timeout or timedelta(seconds=_BEATS_PER_TIMEOUT)
    beating = asyncio.create_task(_beat(timeout.total_seconds() / _BEATS_PER_TIMEOUT, details))
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(interval: float, details: Callable[[], Sequence[object]]) -> None:
    while True:
        await asyncio.sleep(interval)  # Temporal knows already that it has started
        activity.heartbeat(*details())
