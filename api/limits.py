"""The limits of what anybody may ask without a token; each address has its own."""

import asyncio
import math
from http import HTTPStatus

from starlette.requests import HTTPConnection

from api.limiter import RateLimiter, peer, subscriber
from api.problems import ProblemError

_HASHES_AT_ONCE = 2
"""Each takes a core and 19 MiB for some 20 ms, from a pool of threads that look-ups of hosts need as well."""


class ConnectLimits:
    """Limits of registering and of getting tokens, for all tenants together.

    Args:
        enabled: whether an address may ask only so often.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.hashes = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._enabled = enabled
        # People and scripts register a handful of clients; each costs a hash, and a row for ever.
        self._registrations = RateLimiter(burst=30, interval=2)
        # A command of `ods` gets one token; behind one address there may be many clients. Each costs a hash.
        self._tokens = RateLimiter(burst=60, interval=1)

    def admit_registration(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has registered too often.
        """
        self._admit(self._registrations, connection)

    def admit_token(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has asked for tokens too often.
        """
        self._admit(self._tokens, connection)

    def _admit(self, limiter: RateLimiter, connection: HTTPConnection) -> None:
        if self._enabled and (wait := limiter.wait(subscriber(peer(connection)))):
            raise _too_many(math.ceil(wait))


def _too_many(seconds: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many requests from this address",
        {"Retry-After": str(seconds)},
        detail=f"Try again in {seconds} seconds.",
    )
