"""Calls to Temporal that a request waits for: not for long."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio.service import RPCError

PATIENCE = 2.0
"""Seconds after which Temporal counts as away."""

FAULTS = (RPCError, RuntimeError, ValueError, TimeoutError)
"""How Temporal refuses, cannot be connected to, has an impossible address, does not answer."""

_SETTLING = 0.2

_Result = TypeVar("_Result")


async def answer_of(call: Awaitable[_Result]) -> _Result:
    """What Temporal answers to `call`.

    Raises:
        TimeoutError: it does not answer soon.
    """
    try:
        return await asyncio.wait_for(call, PATIENCE)
    except (TimeoutError, asyncio.CancelledError):
        # A connection attempt that was cancelled still reports to the interpreter, and crashes the process
        # if that is gone. This call, which a shutdown waits for, outlasts it.
        await asyncio.sleep(_SETTLING)
        raise
