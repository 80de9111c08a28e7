"""Whether time went on steadily by the registry's clock, as far as the passes of the workers have seen it.

That clock decides when a database in the trash and a scheduled backup are due, and what else is too old.
Where all runs on one machine, no other clock tells that it was set ahead, but that no worker has run for the
days between does. What was recorded while it was behind stays for its days once it is right.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Interval,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.registry.backups.expiry import keep_scheduled_backups
from ods.registry.backups.rows import without_zone
from ods.registry.keeping import IS_SET_BACK, TIME_BEFORE, keep_trash
from ods.registry.storage.models import UTC_NOW, Installation, InstanceDatabase
from ods.registry.storage.sessions import RegistrySessions

CLOCKS_MAY_DIFFER = timedelta(minutes=5)
"""Between reading one clock and the other, requests may have waited."""

_GAP = timedelta(days=1)
"""How long no pass may have run, unless the settings let them be further apart."""
_LATE = timedelta(minutes=15)
"""After how long a pass is late, unless the settings let them be further apart."""
_PASSES_MISSED = 3
_REMEMBERED = timedelta(days=1)
"""How long nothing is due after a gap: an operator can put the clock right meanwhile."""

_TIMELINE: ColumnElement[int] = literal_column(
    # After a promotion, the second one does not change before the next checkpoint.
    "(SELECT greatest(min_recovery_end_timeline, timeline_id)"
    " FROM pg_control_recovery(), pg_control_checkpoint())"
)
_HAS_OTHER_TIMELINE = func.coalesce(Installation.timeline != _TIMELINE, false())
"""Whether the registry's server was restored to a moment, or failed over, since the last pass."""
_ENDS_AHEAD = Installation.gap_to > UTC_NOW
"""Whether the clock was put back since the gap was seen."""


@dataclass(frozen=True)
class TimeGap:
    """A time for which no pass has run: no worker ran, the registry was restored, or its clock was set ahead.

    Times are in UTC without a zone.
    """

    last_seen: datetime
    seen_again: datetime

    @property
    def forgotten_at(self) -> datetime:
        """From when on what is due is done again."""
        return self.seen_again + _REMEMBERED


class RegistryClock:
    """Remembers in a registry when its workers last ran a pass, and the last gap between two of them."""

    def __init__(self, engine: AsyncEngine, interval: timedelta) -> None:
        self._sessions = RegistrySessions(engine)
        self._late = max(_LATE, _PASSES_MISSED * interval)
        self._longest = max(_GAP, self._late)

    async def doubts(self) -> tuple[bool, bool]:
        """Whether no pass has run for too long; and whether the registry's server has another timeline since.

        Either may mean that the registry was restored. In a transaction, other passes wait until it ends.
        """
        query = select(func.coalesce(self._is_gap(), false()), _HAS_OTHER_TIMELINE)
        async with self._sessions.transaction() as session:
            is_gap, is_other = (await session.execute(query.with_for_update(of=Installation))).one()
        return is_gap, is_other

    async def is_in_doubt(self) -> bool:
        """Whether the registry may have been restored, and no pass has looked since."""
        is_in_doubt = or_(_HAS_OTHER_TIMELINE, self._is_late())
        return await self._sessions.finds(select(Installation.id).where(is_in_doubt))

    async def observe(self) -> None:
        """Record that a pass runs now; and a gap, if the last one ran too long ago.

        A gap whose end lies ahead now was seen with a clock that was put back since: it is over if that clock
        is right, and lasts from now on if that is still ahead of the last pass before it.

        A clock that was set back by more than a day, and is as late again as it was before, may have been
        wrong meanwhile. What was put into the trash or backed up then has a time that is too early, and all
        that is in the trash or was backed up by the schedule stays for its days from now on.

        When a pass is late, or a gap is forgotten, what is in the trash stays for `KEPT_IN_DOUBT`: registry
        and server may have been put back together, to before a client has brought it back.
        """
        is_gap = self._is_gap()
        is_forgotten = Installation.gap_to <= UTC_NOW - literal(_REMEMBERED, Interval)
        keeps_trash = and_(not_(is_gap), or_(is_forgotten, self._is_late()))
        is_as_late_again = Installation.set_back_from <= UTC_NOW
        is_over = or_(is_forgotten, self._was_put_right())
        seen = {
            "timeline": _TIMELINE,
            "pass_at": UTC_NOW,
            "gap_from": case((is_gap, Installation.pass_at), (is_over, null()), else_=Installation.gap_from),
            "gap_to": case(
                (is_gap, UTC_NOW), (is_over, null()), (_ENDS_AHEAD, UTC_NOW), else_=Installation.gap_to
            ),
            "set_back_from": case(
                (IS_SET_BACK, TIME_BEFORE),
                (is_as_late_again, null()),
                else_=Installation.set_back_from,
            ),
        }
        async with self._sessions.transaction() as session:
            doubts = select(is_as_late_again, keeps_trash).with_for_update()
            was_set_back, was_away = (await session.execute(doubts)).one()
            await session.execute(update(Installation).values(**seen))
            if was_set_back:
                await _count_trash_anew(session)
                await keep_scheduled_backups(session)
            if was_away:
                await keep_trash(session)

    async def gap(self) -> TimeGap | None:
        """The last gap, until a pass forgets it, a day after its end.

        Not one that ends in the future, if the clock, which was ahead as it was seen, is right by now.
        """
        async with self._sessions.statement() as session:
            row = await session.scalar(select(Installation).where(self._is_remembered()))
        if row is None or row.gap_from is None or row.gap_to is None:
            return None
        return TimeGap(row.gap_from, row.gap_to)

    async def is_steady(self) -> bool:
        """Whether passes have run for a day without a gap, and the clock of this machine tells the same time.

        What is kept for months is removed only then: by a wrong year, all of it would be too old.
        """
        runs = Installation.pass_at >= UTC_NOW - literal(self._longest, Interval)
        is_steady = and_(runs, not_(func.coalesce(self._is_remembered(), false())))
        async with self._sessions.statement() as session:
            now = await session.scalar(select(UTC_NOW).where(exists().where(is_steady)))
        return now is not None and abs(without_zone(datetime.now(UTC)) - now) <= CLOCKS_MAY_DIFFER

    def _is_late(self) -> ColumnElement[bool]:
        # A pass by a clock that was ahead, and is right by now, tells nothing of the time before it.
        last = case((self._was_put_right(), Installation.gap_from), else_=Installation.pass_at)
        return last < UTC_NOW - literal(self._late, Interval)

    def _is_gap(self) -> ColumnElement[bool]:
        return Installation.pass_at < UTC_NOW - literal(self._longest, Interval)

    def _is_remembered(self) -> ColumnElement[bool]:
        """Until a pass forgets it, which lets what is in the trash stay for a while then."""
        return and_(Installation.gap_to.is_not(None), not_(self._was_put_right()))

    def _was_put_right(self) -> ColumnElement[bool]:
        """Whether the clock, which was ahead when the gap was seen, is right by now."""
        return and_(_ENDS_AHEAD, not_(self._is_ahead()))

    def _is_ahead(self) -> ColumnElement[bool]:
        """Whether it is still so late that a pass is missing since the gap began."""
        return Installation.gap_from < UTC_NOW - literal(self._longest, Interval)


async def _count_trash_anew(session: AsyncSession) -> None:
    """Let what is in the trash stay from now on for as long as it was to stay when it came there."""
    end = InstanceDatabase.purge_after
    anew = func.greatest(end, UTC_NOW + (end - InstanceDatabase.trashed_at))
    await session.execute(update(InstanceDatabase).where(end.is_not(None)).values(purge_after=anew))
