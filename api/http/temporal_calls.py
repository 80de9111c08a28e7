"""Calls to Temporal that a request waits for, with a time limit."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio.service import RPCError, RPCStatusCode

from api.http.problems import ProblemError

TIMEOUT = 2.0
"""Seconds after which Temporal counts as away."""

FAULTS = (RPCError, RuntimeError, ValueError, TimeoutError)
"""What a call raises if Temporal refuses, cannot be reached, has an impossible address, does not answer."""

_DISCONNECT_SECONDS = 0.2

_Result = TypeVar("_Result")


async def answer_of(call: Awaitable[_Result]) -> _Result:
    """What Temporal answers to `call`.

    Raises:
        TimeoutError: it does not answer within two seconds.
    """
    try:
        async with asyncio.timeout(TIMEOUT):  # wait_for loses a cancellation that comes with the answer
            return await call
    except (TimeoutError, asyncio.CancelledError):
        # A connection attempt that was cancelled still reports to the interpreter, and crashes the process
        # if that is gone. This call, which a shutdown waits for, outlasts it.
        await asyncio.sleep(_DISCONNECT_SECONDS)
        raise


async def require_begun(request: Awaitable[None], unscheduled: str) -> None:
    """Wait until a pass that was requested has begun.

    Raises:
        ProblemError: 503, Temporal is away, or it has no schedule of the pass, which `unscheduled` explains.
    """
    try:
        await answer_of(request)
    except FAULTS as error:
        missing = isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
        raise ProblemError.unavailable(unscheduled if missing else "Temporal cannot be reached") from None
