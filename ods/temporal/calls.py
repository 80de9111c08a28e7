"""Calls to Temporal with a time limit."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio.client import Client

_DISCONNECT_SECONDS = 0.2

_REACHED_SECONDS = 2

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


async def is_reachable(temporal: Client) -> bool:
    """Whether Temporal answers within two seconds."""
    try:
        await answer_within(temporal.service_client.check_health(), _REACHED_SECONDS)
    except Exception:  # noqa: BLE001 - Temporal refuses, cannot be reached, does not answer
        return False
    return True
