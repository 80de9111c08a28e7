"""How often an instance takes part in a schedule, as its label says."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

BACKUP_LABEL = "backup"
SNAPSHOT_LABEL = "snapshot"


class Frequency(StrEnum):
    """What a label can say; without it, or with another value, an instance takes part each time."""

    EACH_TIME = ""
    DAILY = "daily"
    WEEKLY = "weekly"
    NEVER = "never"


def frequency_of(labels: Mapping[str, str] | None, key: str) -> Frequency:
    """How often an instance with these labels takes part in the schedule whose label is `key`."""
    try:
        return Frequency((labels or {}).get(key, ""))
    except ValueError:
        return Frequency.EACH_TIME


def is_wanted(frequency: Frequency, due_at: datetime, last_due_at: datetime | None) -> bool:
    """Whether an instance takes part at `due_at`.

    Args:
        frequency: how often it does.
        due_at: a time of the schedule, in UTC.
        last_due_at: the last time for which something was made of it that is there; None if there is none.
    """
    match frequency:
        case Frequency.EACH_TIME:
            return True
        case Frequency.NEVER:
            return False
        case Frequency.DAILY:
            begin = _midnight(due_at)
        case Frequency.WEEKLY:
            begin = _midnight(due_at) - timedelta(days=due_at.weekday())
        case _:
            assert_never(frequency)
    return last_due_at is None or last_due_at < begin


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
