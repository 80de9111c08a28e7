"""What the last look at the server of the ODS databases has found, for pages that must not wait for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Generic, TypeVar

from ods.databases.spare_pool import PoolReport, SparePool
from ods.observability.logs import fault_name
from ods.registry.instances.jobs import StartedJob
from ods.tenants.drift.detector import DriftDetector
from ods.tenants.drift.findings import Drift, DriftKind

_DRIFT_SECONDS = 600
_SPARES_SECONDS = 60
"""How old a look may be before `renew` asks for another one."""
_UNCONFIRMED_SECONDS = 10
"""The same of a look that has found an unconfirmed installation: the operator may confirm it any time."""

_logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Look(Generic[_Found]):
    """What was found, and when, in UTC."""

    at: datetime
    found: _Found


class ServerLooks:
    """Looks at one tenant's server, and remembers the last look of this process.

    Args:
        detector: compares the registry with the server.
        pool: reports the spare databases.
        started_jobs: lists the jobs that Temporal still has.
    """

    def __init__(
        self,
        detector: DriftDetector,
        pool: SparePool,
        started_jobs: Callable[[], Awaitable[Sequence[StartedJob]]],
    ) -> None:
        self._detector = detector
        self._pool = pool
        self._started_jobs = started_jobs
        self._renewed_at: dict[str, float] = {}
        self._renewing: set[asyncio.Task[None]] = set()
        self.drift: Look[Sequence[Drift]] | None = None
        """The last comparison of registry and server; None if there was none yet."""
        self.spares: Look[PoolReport] | None = None
        """The last report of the spares; None if there was none yet."""

    @property
    def unconfirmed(self) -> str | None:
        """What the operator must confirm before anything is changed, as the last look has found it."""
        found = self.drift.found if self.drift else ()
        kind = DriftKind.INSTALLATION_NOT_CONFIRMED
        return next((drift.explanation for drift in found if drift.kind is kind), None)

    async def look_for_drift(self) -> Look[Sequence[Drift]]:
        """Compare registry and server now.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        found = await self._detector.detect(await self._started_jobs())
        self.drift = Look(datetime.now(UTC), found)
        return self.drift

    async def look_at_spares(self) -> Look[PoolReport]:
        """Count the spares now.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        found = await self._pool.report()
        self.spares = Look(datetime.now(UTC), found)
        return self.spares

    def renew(self) -> None:
        """Have those looks begin, in the background, that are old; returns at once."""
        drift_seconds = _UNCONFIRMED_SECONDS if self.unconfirmed else _DRIFT_SECONDS
        self._renew("drift", drift_seconds, self.look_for_drift)
        self._renew("spares", _SPARES_SECONDS, self.look_at_spares)

    async def close(self) -> None:
        """Give up the looks in the background."""
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)

    def _renew(self, name: str, seconds: float, inspect: Callable[[], Awaitable[object]]) -> None:
        now = monotonic()
        if name in self._renewed_at and now < self._renewed_at[name] + seconds:
            return
        self._renewed_at[name] = now
        task = asyncio.create_task(_look_quietly(name, inspect))
        self._renewing.add(task)
        task.add_done_callback(self._renewing.discard)


async def _look_quietly(name: str, inspect: Callable[[], Awaitable[object]]) -> None:
    try:
        await inspect()
    except Exception as error:  # noqa: BLE001 - the server is away, which the health tells
        _logger.info("The look at the server for %s has failed: %s", name, fault_name(error))
