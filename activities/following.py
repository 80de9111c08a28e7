"""Following a step that takes long: how far it is, and whether it is still wanted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import asyncpg

from ods.backups.monitoring import Progress
from ods.databases.statements import fetch_value

_WATCH_SECONDS = 1

_Result = TypeVar("_Result")


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

    @property
    def eta_seconds(self) -> int | None:
        """Seconds that are left, if it goes on as fast as until now; None while that cannot be said."""
        if not self.percent:
            return None
        return round((time.monotonic() - self._began) * (100 - self.percent) / self.percent)

    def details(self) -> Sequence[object]:
        """What the Web UI shows."""
        return [{"percent": self.percent, "etaSeconds": self.eta_seconds}]


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


async def require_session(session: asyncpg.Connection, report: Callable[[], Awaitable[object]]) -> NoReturn:
    """Watch the session that holds the fence, which nothing else uses meanwhile, and report.

    Raises:
        DatabaseFaultError: it has ended.
    """
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        await fetch_value(session, "SELECT 1")
        await report()
