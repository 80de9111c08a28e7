"""Waiting for a condition."""

import asyncio
from collections.abc import Awaitable, Callable

_INTERVAL_SECONDS = 0.05


async def wait_until(
    condition: Callable[[], Awaitable[bool]],
    timeout: float,  # noqa: ASYNC109 - the point
    interval: float = _INTERVAL_SECONDS,
) -> None:
    """Wait until `condition` holds, asking every `interval` seconds; what it raises is passed on.

    Raises:
        TimeoutError: it has not held within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110 - the condition is about another process, which sets no event
            await asyncio.sleep(interval)
