"""How long scheduled backups stay: the first of a day, week and month, each for so many of these."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from ods.settings.schedule_settings import KeptBackups

_AT_LEAST = timedelta(days=1)
"""How long each of them stays after its database was last as in it, also where several are made a day."""


@dataclass(frozen=True)
class Covered:
    """The time at which an instance had the data of a backup, in UTC without a zone.

    Attributes:
        since: when the backup was made.
        until: when the instance was last found to have the same data; the same moment if it never was.
        next_stays: whether the next one stays as well in its place: this one has not passed its verification,
            or `until` may be too late.
    """

    since: datetime
    until: datetime
    next_stays: bool = False


@dataclass(frozen=True)
class _Period:
    """Days, weeks or months: each has a number, one more than the one before.

    Attributes:
        number: of the one with this date.
        first_day: of the one with this number.
        kept: how many stay.
    """

    number: Callable[[date], int]
    first_day: Callable[[int], date]
    kept: int

    def ends(self, backups: Sequence[Covered]) -> Iterator[datetime | None]:
        """When each backup expires as one of these; None if one was made in it before that is enough."""
        latest: int | None = None
        for backup in backups:
            last = self.number(backup.until.date())
            is_first = self.kept > 0 and (latest is None or last > latest)
            if not backup.next_stays:
                latest = last if latest is None else max(latest, last)
            # That many others follow before it goes.
            yield _midnight(self.first_day(last + self.kept + 1)) if is_first else None


def expiries(backups: Sequence[Covered], kept: KeptBackups) -> list[datetime]:
    """When each of an instance's scheduled backups may be deleted, in UTC without a zone.

    A backup of a database that did not change stands for the backups that were not made.

    They are ordered by age, the oldest first.
    """
    periods = (
        _Period(date.toordinal, date.fromordinal, kept.daily),
        _Period(_week, _monday, kept.weekly),
        _Period(_month, _first_of_month, kept.monthly),
    )
    ends = zip(*(period.ends(backups) for period in periods), strict=True)
    return [
        max([backup.until + _AT_LEAST, *(end for end in its if end is not None)])
        for backup, its in zip(backups, ends, strict=True)
    ]


def _week(day: date) -> int:
    return (day.toordinal() - 1) // 7  # day 1 was a Monday


def _monday(week: int) -> date:
    return date.fromordinal(week * 7 + 1)


def _month(day: date) -> int:
    return day.year * 12 + day.month - 1


def _first_of_month(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())
