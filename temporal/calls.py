"""Calls to Temporal with a time limit."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_DISCONNECT_SECONDS = 0.2

_Result = TypeVar("_Result")


async def answer_within(call: Awaitable[_Result], seconds: float) -> _Result:
    """What Temporal answers to `call`.

    Raises:
        TimeoutError: it does not answer within so many seconds.
    """
    try:
        async with asyncio.timeout(seconds):  # wait_for loses a cancellation that comes with the answer
            return await call
    except (TimeoutError, asyncio.CancelledError):
        # A connection attempt that was cancelled still reports to the interpreter, and crashes the process
        # if that is gone. This call, which a shutdown waits for, outlasts it.
        await asyncio.sleep(_DISCONNECT_SECONDS)
        raise
