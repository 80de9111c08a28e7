"""Limits of requests that need no token; each address has its own."""

import asyncio
import math
from datetime import timedelta
from http import HTTPStatus

from starlette.requests import HTTPConnection

from api.http.addresses import peer, subscriber
from api.http.problems import ProblemError
from api.security.rate_limit import RateLimiter
from ods.registry.attempt_counts import AttemptCounts, AttemptLimit
from ods.registry.clients.credentials import LONGEST_CLIENT_TEXT

_HASHES_AT_ONCE = 2
"""Each takes a core and 19 MiB for some 20 ms, from a pool of threads that look-ups of hosts need as well."""

_SLOW_SECONDS = 2
"""What a failed log-in takes longer when others of the same client have failed, wherever they came from."""


# People and scripts register a handful of clients; each costs a hash, and a row for ever.
_REGISTRATIONS = AttemptLimit("registrations", burst=30, interval=timedelta(seconds=2))
# A command of `ods` gets one token; behind one address there may be many clients. Each costs a hash.
_TOKENS = AttemptLimit("tokens", burst=60, interval=timedelta(seconds=1))
# Cookies of sessions that the process does not know; each costs a query. The registry does not count them.
_SESSIONS = AttemptLimit("sessions", burst=300, interval=timedelta(seconds=0.1))
# A mistaken configuration tries again and again; secrets of 32 characters are not found by trying.
_FAILURES = AttemptLimit("failures", burst=5, interval=timedelta(seconds=10))
# From many addresses: no client is refused for what others do, so that only costs the others time.
_FAILURES_ANYWHERE = AttemptLimit("failures anywhere", burst=20, interval=timedelta(seconds=10))


class ProcessLimits:
    """What one process allows, for all tenants together: a flood from one address asks no registry.

    Args:
        enabled: whether an address may ask only so often.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.hashes = asyncio.Semaphore(_HASHES_AT_ONCE)
        self.enabled = enabled
        self._limiters = {limit: _limiter(limit) for limit in (_REGISTRATIONS, _TOKENS, _SESSIONS)}

    def wait(self, limit: AttemptLimit, address: str) -> float:
        """Seconds until the address is admitted; 0 if it is now, and that counts."""
        return self._limiters[limit].wait(address)

    def admit_session(self, connection: HTTPConnection) -> None:
        """Let the request pass, whose cookie names a session of the console that the process does not know.

        Raises:
            ProblemError: 429, the address has sent such cookies too often.
        """
        if self.enabled and (wait := self.wait(_SESSIONS, subscriber(peer(connection)))):
            raise _too_many("Too many requests from this address", math.ceil(wait))


class ConnectLimits:
    """Limits of registering and of getting tokens, of one tenant: all API processes count together.

    While the registry is away, no request is admitted; without it, none could register or log in.

    Args:
        process: the limits of this process.
        counts: what the tenant's registry counts.
    """

    def __init__(self, process: ProcessLimits, counts: AttemptCounts) -> None:
        self._process = process
        self._counts = counts if process.enabled else None

    async def admit_registration(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has registered too often.
        """
        await self._admit(_REGISTRATIONS, connection)

    async def admit_token(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has asked for tokens too often.
        """
        await self._admit(_TOKENS, connection)

    def log_in(self, connection: HTTPConnection, client_id: str) -> "LogIn":
        """The limits of a client's log-in from the address of the request."""
        return LogIn(self._counts, client_id[:LONGEST_CLIENT_TEXT], subscriber(peer(connection)))

    async def _admit(self, limit: AttemptLimit, connection: HTTPConnection) -> None:
        if self._counts is None:
            return
        address = subscriber(peer(connection))
        if wait := self._process.wait(limit, address) or await self._counts.wait(limit, address):
            raise _too_many("Too many requests from this address", math.ceil(wait))


class LogIn:
    """One attempt of a client to prove who it is.

    After some failures in a row the client has to wait, at this address; a log-in that succeeds ends the row.
    So no other address can keep the client out.

    Args:
        counts: counts failures; None if they do not count.
        client: the client, whether there is one or not.
        address: where the attempt comes from.
    """

    def __init__(self, counts: AttemptCounts | None, client: str, address: str) -> None:
        self._counts = counts
        self._client = client
        self._pair = f"{address} {client}"
        self.delay = 0
        """Seconds by which to hold back the answer."""

    async def require_admitted(self) -> None:
        """Go on if the secret may be looked at.

        Raises:
            ProblemError: 429, there were too many failures.
        """
        if self._counts is not None and (wait := await self._counts.peek(_FAILURES, self._pair)):
            raise _too_many("Too many failed log-ins of this client from this address", math.ceil(wait))

    async def note(self, *, succeeded: bool) -> None:
        """Count the attempt if it has failed."""
        if self._counts is None:
            return
        if succeeded:
            await self._counts.forget(_FAILURES, self._pair)
            return
        await self._counts.wait(_FAILURES, self._pair)
        if await self._counts.wait(_FAILURES_ANYWHERE, self._client):
            self.delay = _SLOW_SECONDS


def _limiter(limit: AttemptLimit) -> RateLimiter:
    return RateLimiter(limit.burst, limit.interval.total_seconds())


def _too_many(title: str, seconds: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        title,
        {"Retry-After": str(seconds)},
        detail=f"Try again in {seconds} seconds.",
    )
