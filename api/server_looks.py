"""What the last look at the server of the ODS databases has found, for pages that must not wait for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Generic, TypeVar

from ods.databases.templates.spare_pool import PoolReport, SparePool
from ods.observability.logs import fault_name
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import Drift
from ods.registry.instances.jobs import StartedJob

_DRIFT_SECONDS = 600
_SPARES_SECONDS = 60
"""How old a look may be before `renew` asks for another one."""
_INSTALLATION_SECONDS = 10
"""The same of the look for what the operator must confirm, which asks little and may change at any time."""

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
        unconfirmed: says what the operator must confirm; None if nothing.
    """

    def __init__(
        self,
        detector: DriftDetector,
        pool: SparePool,
        started_jobs: Callable[[], Awaitable[Sequence[StartedJob]]],
        unconfirmed: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._detector = detector
        self._pool = pool
        self._started_jobs = started_jobs
        self._unconfirmed = unconfirmed
        self._renewed_at: dict[str, float] = {}
        self._renewing: dict[str, asyncio.Task[None]] = {}
        self.drift: Look[Sequence[Drift]] | None = None
        """The last comparison of registry and server; None if there was none yet."""
        self.spares: Look[PoolReport] | None = None
        """The last report of the spares; None if there was none yet."""
        self._installation: Look[str | None] | None = None

    @property
    def installation(self) -> Look[str | None] | None:
        """What the operator must confirm before anything is changed; None if the last look is old."""
        seen = self._installation
        if seen is None or datetime.now(UTC) - seen.at > timedelta(seconds=2 * _INSTALLATION_SECONDS):
            return None
        return seen

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

    async def look_at_installation(self) -> Look[str | None]:
        """Ask now whether the operator must confirm the installation."""
        found, before = await self._unconfirmed(), self._installation
        seen = self._installation = Look(datetime.now(UTC), found)
        if before is not None and before.found != found:
            self._renewed_at.pop("drift", None)  # the last comparison has said otherwise
        return seen

    def renew(self) -> None:
        """Have those looks begin, in the background, that are old and not under way; returns at once."""
        self._renew("drift", _DRIFT_SECONDS, self.look_for_drift)
        self._renew("spares", _SPARES_SECONDS, self.look_at_spares)
        self._renew("installation", _INSTALLATION_SECONDS, self.look_at_installation)

    async def close(self) -> None:
        """Give up the looks in the background."""
        renewing = list(self._renewing.values())
        for task in renewing:
            task.cancel()
        await asyncio.gather(*renewing, return_exceptions=True)

    def _renew(self, name: str, seconds: float, inspect: Callable[[], Awaitable[object]]) -> None:
        now = monotonic()
        if name in self._renewing or (name in self._renewed_at and now < self._renewed_at[name] + seconds):
            return
        self._renewed_at[name] = now
        task = self._renewing[name] = asyncio.create_task(_look_quietly(name, inspect))
        task.add_done_callback(lambda _: self._renewing.pop(name))


async def _look_quietly(name: str, inspect: Callable[[], Awaitable[object]]) -> None:
    try:
        await inspect()
    except Exception as error:  # noqa: BLE001 - the server is away, which the health tells
        _logger.info("The look at the server for %s has failed: %s", name, fault_name(error))
