"""What goes on beside a long step: heartbeats, how far it is, and whether it is still wanted."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn, TypeVar

import asyncpg
from temporalio import activity

from ods.backups.monitoring import Monitor, Progress, program_log
from ods.databases.ownership import KnownOwner
from ods.databases.statements import fetch_value
from ods.observability.logs import fault_name
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob

_AGAIN_SECONDS = 1
_BEATS_PER_TIMEOUT = 4
_WATCH_SECONDS = 1

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def heartbeats(details: Callable[[], Sequence[object]] = tuple) -> AsyncIterator[None]:
    """Heartbeat four times per heartbeat timeout while the body runs; the Web UI shows `details`.

    So Temporal notices within the timeout that the worker was killed.
    """
    timeout = activity.info().heartbeat_timeout or timedelta(seconds=_BEATS_PER_TIMEOUT)
    beating = asyncio.create_task(_beat(timeout.total_seconds() / _BEATS_PER_TIMEOUT, details))
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(interval: float, details: Callable[[], Sequence[object]]) -> None:
    while True:
        await asyncio.sleep(interval)  # Temporal knows already that it has started
        activity.heartbeat(*details())


class Following:
    """How far a step is, and about how long it will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.percent = 0
        self._moved = asyncio.Event()

    def report(self, progress: Progress) -> None:
        """Take note of a piece that was stored or read."""
        self.percent = progress.percent
        self._moved.set()

    async def moved(self) -> None:
        """Wait until the first piece was stored or read."""
        await self._moved.wait()

    @contextmanager
    def monitor(self) -> Iterator[Monitor]:
        """Follows programs that copy databases, whose messages have a file of their own."""
        with program_log() as log:
            yield replace(log, report=self.report)

    @property
    def eta_seconds(self) -> int | None:
        """Seconds that are left, if it goes on as fast as until now; None while that is not known."""
        if not self.percent:
            return None
        return round((time.monotonic() - self._began) * (100 - self.percent) / self.percent)

    def details(self) -> Sequence[object]:
        """What the Web UI shows, once a piece was stored or read."""
        if not self._moved.is_set():
            return []
        return [{"percent": self.percent, "etaSeconds": self.eta_seconds}]


@dataclass(frozen=True)
class FencedWork:
    """Work on the databases of an instance, with the session that holds its fence.

    Attributes:
        owner: the instance, with the revisions that the registry knew when the work began.
    """

    session: asyncpg.Connection
    owner: KnownOwner
    following: Following
    report: Callable[[], Awaitable[object]]  # awaited each second meanwhile

    async def done(self, work: Awaitable[_Result]) -> _Result:
        """Do long work, while nothing else uses the session; it is cancelled when the session ends."""
        return await watched(work, self._watch())

    async def _watch(self) -> NoReturn:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await fetch_value(self.session, "SELECT 1")
            await self.report()


async def watched(work: Awaitable[_Result], watch: Awaitable[None]) -> _Result:
    """Do the work; it is cancelled if `watch` raises."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(watch)
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await watching
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


@asynccontextmanager
async def ends_wait(
    jobs: JobStore, job: InstanceJob, works: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Record beside the body that the job waits no more, as soon as `works` returns: the step has begun.

    That is tried until it is recorded: otherwise clients would read that the job waits.
    """
    ending = asyncio.create_task(_end_wait(jobs, job, works))
    try:
        yield
    finally:
        ending.cancel()
        await asyncio.wait([ending])


async def _end_wait(jobs: JobStore, job: InstanceJob, works: Callable[[], Awaitable[object]]) -> None:
    await works()
    while True:
        try:
            await jobs.end_wait(job)
        except Exception as error:  # noqa: BLE001 - the registry is away, which says nothing of the step
            _logger.info("That %s waits no longer is not recorded: %s", job.job_id, fault_name(error))
        else:
            return
        await asyncio.sleep(_AGAIN_SECONDS)
