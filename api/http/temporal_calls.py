"""Calls to Temporal that a request waits for, with a time limit."""

from collections.abc import Awaitable
from typing import TypeVar

from temporalio.service import RPCError, RPCStatusCode

from api.http.problems import ProblemError
from ods.temporal.calls import answer_within

TIMEOUT = 2.0
"""Seconds after which Temporal counts as away."""

FAULTS = (RPCError, RuntimeError, ValueError, TimeoutError)
"""What a call raises if Temporal refuses, cannot be reached, has an impossible address, does not answer."""

_Result = TypeVar("_Result")


async def answer_of(call: Awaitable[_Result]) -> _Result:
    """What Temporal answers to `call`.

    Raises:
        TimeoutError: it does not answer within two seconds.
    """
    return await answer_within(call, TIMEOUT)


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
