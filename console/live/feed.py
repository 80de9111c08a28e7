"""What changes, told to all open pages of a process: one query, however many pages there are.

A page names what it shows as topics: `instance:5`, `job:CreateInstance-5-1`, `instances` (any instance has
changed, was made or deleted), `jobs` (a job was requested, has begun or ended). The feed of a tenant reads
the registry while a page is open, and tells each page which topics have changed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from logs import fault_name
from registry.instances.changes import RecentChanges, RecentState

_SECONDS = 0.5
"""Between two looks at the registry: a change is seen on a page within a second."""

_logger = logging.getLogger(__name__)

Topics = frozenset[str]


class ChangeFeed:
    """Tells the pages of one tenant what changes.

    Args:
        changes: reads the registry.
        seconds: between two looks at it.
    """

    def __init__(self, changes: RecentChanges, seconds: float = _SECONDS) -> None:
        self._changes = changes
        self._seconds = seconds
        self._pages: set[asyncio.Queue[Topics]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._known: RecentState | None = None
        self.version = 0
        """Grows with each change that was seen."""

    @property
    def is_current(self) -> bool:
        """Whether changes are seen now: not while no page is open, nor while the registry is away."""
        return self._reading is not None and self._known is not None

    @asynccontextmanager
    async def page(self) -> AsyncIterator[asyncio.Queue[Topics]]:
        """What a page is told while it is open."""
        told: asyncio.Queue[Topics] = asyncio.Queue()
        self._pages.add(told)
        if self.is_current:  # what has changed since the page was made is not known
            told.put_nowait(EVERYTHING)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_on())
        try:
            yield told
        finally:
            self._pages.discard(told)
            if not self._pages and self._reading is not None:
                self._reading.cancel()
                self._reading = self._known = None

    async def _read_on(self) -> None:
        while True:
            try:
                now = await self._changes.read()
            except Exception as error:  # noqa: BLE001 - the registry is away
                if self._known is not None:
                    _logger.warning(
                        "Open pages of the console are not told what changes: %s", fault_name(error)
                    )
                self._known = None
                for page in self._pages:
                    page.put_nowait(NOTHING)
            else:
                self._publish(now)
            await asyncio.sleep(self._seconds)

    def _publish(self, now: RecentState) -> None:
        # What has changed before the first look is not known: a page reads everything when it begins.
        changed = EVERYTHING if self._known is None else topics(self._known, now)
        self._known = now
        if changed:
            self.version += 1
            for page in self._pages:
                page.put_nowait(changed)


EVERYTHING: Topics = frozenset({"*"})
"""The topic that stands for all."""
NOTHING: Topics = frozenset()
"""What changes is not known any more: a page must ask again, and is told everything then."""


def topics(before: RecentState, now: RecentState) -> Topics:
    """What pages show differently now."""
    found: set[str] = set()
    for instance, changed_at in now.instances.items():
        if before.instances.get(instance) != changed_at:
            found |= {f"instance:{instance}", "instances"}
    for job in before.jobs.keys() | now.jobs.keys():
        old, new = before.jobs.get(job), now.jobs.get(job)
        if old == new:
            continue
        found.add(f"job:{job}")
        if old is None or new is None or old.status != new.status:
            found.add("jobs")
        either = new or old
        if either is not None and either.instance_id is not None:
            found.add(f"instance:{either.instance_id}")
    return frozenset(found)
