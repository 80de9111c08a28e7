"""What changes, told to all open pages of a process: one query, however many pages there are.

A page names what it shows as topics: `instance:5`, `job:CreateInstance-5-1`, `instances` (any instance has
changed, was made or deleted), `jobs` (a job was requested, has begun or ended), `attention` (what needs a
person). The feed of a tenant reads the registry while a page is open, and tells each page which topics have
changed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

from ods.observability.logs import fault_name
from ods.registry.instances.job_list import RecentChanges, RecentState

_SECONDS = 0.4
"""Between two looks at the registry: a change is seen on a page within a second."""
_ATTENTION_SECONDS = 10
"""What needs a person is asked for at least so often: looks at the server find some of it."""

_SPREAD_SECONDS = 0.005
"""For each open page: longer than one takes to be served what has changed."""
_MOST_SPREAD_SECONDS = 0.5
"""So a change is seen on a page within a second, however many are open."""
_SPREADS_APART = 2
"""For how many spreads after a change nothing more is read: most pages are told nothing more so soon."""

_logger = logging.getLogger(__name__)

Topics = frozenset[str]
_INSTANCES, _ATTENTION = "instances", "attention"


class ChangeFeed:
    """Tells the pages of one tenant what changes.

    Args:
        changes: reads the registry.
        attention: what needs a person, to be compared with what did before.
        seconds: between two looks at the registry.
    """

    def __init__(
        self, changes: RecentChanges, attention: Callable[[], Awaitable[object]], seconds: float = _SECONDS
    ) -> None:
        self._changes = changes
        self._attention = attention
        self._seconds = seconds
        self._pages: set[asyncio.Queue[Topics]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._known: RecentState | None = None
        self._known_attention: object = None
        self._attention_until = 0.0
        self.version = 0
        """Grows with each change that was seen."""

    @property
    def is_current(self) -> bool:
        """Whether changes are seen now: not while no page is open, nor while the registry is away."""
        return self._reading is not None and self._known is not None

    @property
    def spread(self) -> float:
        """Within how many seconds the pages are to be told what has changed, each at another time.

        Pages that are told at once also fetch at once, and all other requests would wait for theirs.
        """
        return min(_SPREAD_SECONDS * len(self._pages), _MOST_SPREAD_SECONDS)

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
                changed = await self._find_changes()
            except Exception as error:  # noqa: BLE001 - the registry is away
                if self._known is not None:
                    _logger.warning(
                        "Open pages of the console are not told what changes: %s", fault_name(error)
                    )
                self._known = None
                for page in self._pages:
                    page.put_nowait(NOTHING)
                changed = NOTHING
            else:
                self._publish(changed)
            pause = _SPREADS_APART * self.spread if changed else 0
            await asyncio.sleep(max(self._seconds, pause))

    async def _find_changes(self) -> Topics:
        now = await self._changes.read()
        # What has changed before the first look is not known: a page reads everything when it begins.
        changed = EVERYTHING if self._known is None else topics(self._known, now)
        if changed & {_INSTANCES, *EVERYTHING} or monotonic() >= self._attention_until:
            attention = await self._attention()
            if attention != self._known_attention and changed != EVERYTHING:
                changed |= {_ATTENTION}
            self._known_attention = attention
            self._attention_until = monotonic() + _ATTENTION_SECONDS
        self._known = now
        return changed

    def _publish(self, changed: Topics) -> None:
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
            found |= {f"instance:{instance}", _INSTANCES}
    for job in before.jobs.keys() | now.jobs.keys():
        old, new = before.jobs.get(job), now.jobs.get(job)
        if old == new:
            continue
        found.add(f"job:{job}")
        if old is None or new is None or old.status != new.status:
            found.add("jobs")
        if (old.waiting_for if old else None) != (new.waiting_for if new else None):
            found.add(_ATTENTION)
        either = new or old
        if either is not None and either.instance_id is not None:
            found.add(f"instance:{either.instance_id}")
    return frozenset(found)
