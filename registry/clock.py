"""Whether time went on steadily by the registry's clock, as far as the passes of the workers have seen it.

That clock decides when a database in the trash and a scheduled backup are due. Where all runs on one machine,
no other clock tells that it was set ahead, but that no worker has run for the days between does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Interval, case, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.storage.models import UTC_NOW, Installation
from registry.storage.sessions import RegistrySessions

_GAP = timedelta(days=1)
"""How long no pass may have run, unless the settings let them be further apart."""
_PASSES_MISSED = 3
_REMEMBERED = timedelta(days=1)
"""How long nothing is due after a gap: an operator can put the clock right meanwhile."""


@dataclass(frozen=True)
class TimeGap:
    """A time for which no pass has run: no worker ran, the registry was restored, or its clock was set ahead.

    Attributes:
        last_seen: when a pass ran before it, in UTC without a zone.
        seen_again: when one ran after it.
    """

    last_seen: datetime
    seen_again: datetime

    @property
    def forgotten_at(self) -> datetime:
        """From when on what is due is done again."""
        return self.seen_again + _REMEMBERED


class RegistryClock:
    """Remembers in a registry when its workers last ran a pass, and the last gap between two of them.

    Args:
        engine: the connections to the registry.
        interval: the time between two passes.
    """

    def __init__(self, engine: AsyncEngine, interval: timedelta) -> None:
        self._sessions = RegistrySessions(engine)
        self._longest = max(_GAP, _PASSES_MISSED * interval)

    async def observe(self) -> None:
        """Record that a pass runs now; and a gap, if the last one ran too long ago."""
        is_gap = Installation.pass_at < UTC_NOW - literal(self._longest, Interval)
        seen = {
            "pass_at": UTC_NOW,
            "gap_from": case((is_gap, Installation.pass_at), else_=Installation.gap_from),
            "gap_to": case((is_gap, UTC_NOW), else_=Installation.gap_to),
        }
        async with self._sessions.statement() as session:
            await session.execute(update(Installation).values(**seen))

    async def gap(self) -> TimeGap | None:
        """The last gap, if it ended less than a day ago.

        Not one that ends in the future: it was seen while the clock was ahead, which is right by now.
        """
        forgotten = UTC_NOW - literal(_REMEMBERED, Interval)
        query = select(Installation).where(Installation.gap_to <= UTC_NOW, Installation.gap_to > forgotten)
        async with self._sessions.statement() as session:
            row = await session.scalar(query)
        if row is None or row.gap_from is None or row.gap_to is None:
            return None
        return TimeGap(row.gap_from, row.gap_to)
