"""Writing entries of the audit trail after requests were answered, so that no request waits for it.

Refusals of unauthenticated requests are counted: one entry a minute and network says how many there
were.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from itertools import count
from typing import NoReturn

from api.anonymous_refusals import AnonymousRefusals
from api.security.rate_limit import RateLimiter
from ods.observability.logs import fault_name
from ods.registry.audit import AuditEntry, announce

_WRITES_AT_ONCE = 2
"""Of the ten connections that requests share: in an outage, the trail may not take them all."""
_WRITES_WAITING = 100
_TIMEOUT_SECONDS = 5
"""How long an entry waits to be written."""

_REFUSALS_AT_ONCE = 60
_REFUSALS_APART_SECONDS = 1
"""How many refusals of one client are written at once, and how often one more. Others are counted: a client
that has itself refused again and again would take all places to wait, and keep entries of others out."""

_COUNTING_SECONDS = 60
"""How long refusals of one sender are counted before an entry is written about them."""
_COUNTS_PER_PRUNING = 60
_PRUNING_PAUSE_SECONDS = 0.1

_logger = logging.getLogger(__name__)


class AuditRecorder:
    """Writes entries while the registry can take them, and gives up those it cannot.

    Args:
        write: appends one entry to the audit trail.
        prune: removes some entries that are too old; whether there may be more of them.
        tenant: whose trail it is; None: that of the task that records.
    """

    def __init__(
        self,
        write: Callable[[AuditEntry], Awaitable[None]],
        prune: Callable[[], Awaitable[bool]],
        tenant: str | None = None,
    ) -> None:
        self._write = write
        self._prune = prune
        self._tenant = tenant
        self._slots = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._waiting = 0
        self._refusals = AnonymousRefusals()
        self._refused = RateLimiter(_REFUSALS_AT_ONCE, _REFUSALS_APART_SECONDS)

    async def record(self, entry: AuditEntry) -> None:
        """Write `entry`, or count it."""
        is_refusal = entry.status >= HTTPStatus.BAD_REQUEST
        is_counted = is_refusal and (entry.client is None or self._refused.wait(entry.client) > 0)
        admitted = self._refusals.admit(entry) if is_counted else entry
        if admitted is not None:
            await self._attempt(admitted)

    async def require(self, entry: AuditEntry) -> None:
        """Write `entry` at once, whatever waits: what it is about must not happen without it.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry does not take it.
            OSError: it is away.
            TimeoutError: it did not take it in time.
        """
        announce(entry, self._tenant)
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self._write(entry)

    async def keep(self) -> NoReturn:
        """Every minute write what was counted; every hour remove what is too old."""
        for counting in count():
            await asyncio.sleep(_COUNTING_SECONDS)
            await self.flush()
            if counting % _COUNTS_PER_PRUNING == 0:
                await self._prune_all()
        raise AssertionError  # there is always a next number

    async def flush(self) -> None:
        """Write what was counted."""
        await asyncio.gather(*map(self._attempt, self._refusals.take()))

    async def _prune_all(self) -> None:
        """Remove what is too old, a little at a time: requests need the registry as well."""
        try:
            while await self._prune():  # noqa: ASYNC110 - a pause, not a wait
                await asyncio.sleep(_PRUNING_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the next hour brings another try
            _logger.warning("Old entries stay in the audit trail for now: %s", fault_name(error))

    async def _attempt(self, entry: AuditEntry) -> None:
        announce(entry, self._tenant)
        if self._waiting >= _WRITES_WAITING:
            _logger.warning("%s was not written to the audit trail: too many are waiting.", _summary(entry))
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), self._slots:
                await self._write(entry)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the request was answered
            _logger.warning("%s was not written to the audit trail: %s", _summary(entry), fault_name(error))
        finally:
            self._waiting -= 1


def _summary(entry: AuditEntry) -> str:
    return f"A {entry.method} that was answered {entry.status}"
