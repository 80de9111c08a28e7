"""Heartbeats of an activity, sent from beside whatever it awaits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from temporalio import activity

_BEATS_PER_TIMEOUT = 4


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Heartbeat while the body runs, so that a killed worker is noticed within the heartbeat timeout."""
    timeout = activity.info().heartbeat_timeout or timedelta(seconds=_BEATS_PER_TIMEOUT)
    beating = asyncio.create_task(_beat(timeout.total_seconds() / _BEATS_PER_TIMEOUT))
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(interval: float) -> None:
    while True:
        await asyncio.sleep(interval)  # that it has started, Temporal knows
        activity.heartbeat()
