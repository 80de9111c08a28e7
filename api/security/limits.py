"""Limits of requests that need no token; each address has its own."""

import asyncio
import math
from http import HTTPStatus

from starlette.requests import HTTPConnection

from api.http.addresses import peer, subscriber
from api.http.problems import ProblemError
from api.security.rate_limit import RateLimiter
from registry.clients.credentials import LONGEST_CLIENT_TEXT

_HASHES_AT_ONCE = 2
"""Each takes a core and 19 MiB for some 20 ms, from a pool of threads that look-ups of hosts need as well."""

_SLOW_SECONDS = 2
"""What a failed log-in takes longer when others of the same client have failed, wherever they came from."""


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
        # A mistaken configuration tries again and again; secrets of 32 characters are not found by trying.
        self._failures = RateLimiter(burst=5, interval=10)
        # From many addresses: no client is refused for what others do, so that only costs the others time.
        self._failures_anywhere = RateLimiter(burst=20, interval=10)

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

    def log_in(self, connection: HTTPConnection, tenant: str, client_id: str) -> "LogIn":
        """The limits of a client's log-in from the address of the request."""
        client = f"{tenant} {client_id[:LONGEST_CLIENT_TEXT]}"
        address = subscriber(peer(connection))
        return LogIn(self._failures, self._failures_anywhere, client, address, enabled=self._enabled)

    def _admit(self, limiter: RateLimiter, connection: HTTPConnection) -> None:
        if self._enabled and (wait := limiter.wait(subscriber(peer(connection)))):
            raise _too_many("Too many requests from this address", math.ceil(wait))


class LogIn:
    """One attempt of a client to prove who it is.

    After some failures in a row the client has to wait, at this address; a log-in that succeeds ends the row.
    So no other address can keep the client out.

    Args:
        failures: counts failures of a client at an address.
        failures_anywhere: counts failures of a client at all addresses together.
        client: the client, whether there is one or not.
        address: where the attempt comes from.
        enabled: whether failures count.
    """

    def __init__(
        self,
        failures: RateLimiter,
        failures_anywhere: RateLimiter,
        client: str,
        address: str,
        *,
        enabled: bool,
    ) -> None:
        self._failures = failures
        self._failures_anywhere = failures_anywhere
        self._client = client
        self._pair = f"{address} {client}"
        self._enabled = enabled
        self.delay = 0
        """Seconds by which to hold back the answer."""

    def require_admitted(self) -> None:
        """Go on if the secret may be looked at.

        Raises:
            ProblemError: 429, there were too many failures.
        """
        if self._enabled and (wait := self._failures.peek(self._pair)):
            raise _too_many("Too many failed log-ins of this client from this address", math.ceil(wait))

    def note(self, *, succeeded: bool) -> None:
        """Count the attempt if it has failed."""
        if not self._enabled:
            return
        if succeeded:
            self._failures.forget(self._pair)
            return
        self._failures.wait(self._pair)
        if self._failures_anywhere.wait(self._client):
            self.delay = _SLOW_SECONDS


def _too_many(title: str, seconds: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        title,
        {"Retry-After": str(seconds)},
        detail=f"Try again in {seconds} seconds.",
    )
