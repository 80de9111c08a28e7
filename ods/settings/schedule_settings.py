"""What the settings of schedules may say: when a pass runs, and how many backups stay."""

import re
from dataclasses import dataclass
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_ZONE = re.compile(r"(?:CRON_TZ|TZ)=(\S+)")
_WORD = r"[0-9]{1,2}|[A-Za-z]{3}"
_PART = re.compile(rf"(?P<first>\*|{_WORD})(-(?P<last>{_WORD}))?(/(?P<step>[0-9]{{1,2}}))?")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MOST_KEPT = 1000


@dataclass(frozen=True)
class _Field:
    """One field of a cron expression: its bounds, and the names of values, from the lower bound on."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    def require(self, text: str) -> None:
        """Check the field.

        Raises:
            ValueError: it is no list of values, ranges and steps within the bounds.
        """
        if not all(self._is_part(part) for part in text.split(",")):
            raise ValueError(
                f"the {self.name} must be * or values and ranges from {self.least} to {self.most}, with"
                " commas between them, each perhaps with a step, as in */15 or 8-18/2"
            )

    def _is_part(self, text: str) -> bool:
        found = _PART.fullmatch(text)
        if found is None or (found["step"] is not None and int(found["step"]) == 0):
            return False
        if found["first"] == "*":
            return found["last"] is None
        first = self._number(found["first"])
        last = first if found["last"] is None else self._number(found["last"])
        return first is not None and last is not None and first <= last

    def _number(self, text: str) -> int | None:
        """The value; None if it is none of this field."""
        if text.upper() in self.names:
            return self.least + self.names.index(text.upper())
        return int(text) if text.isdecimal() and self.least <= int(text) <= self.most else None


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _DAYS),
)


def require_cron(text: str) -> str:
    """Check that Temporal can read a cron expression; an empty one means that nothing is scheduled.

    Raises:
        ValueError: it cannot, with the reason.
    """
    fields = text.split()
    if fields and (zone := _ZONE.fullmatch(fields[0])):
        _require_zone(zone[1])
        fields = fields[1:]
    if text.strip() and len(fields) != len(_FIELDS):
        raise ValueError(
            "must have five fields, as cron has them: minute, hour, day of the month, month, day of the week;"
            " `CRON_TZ=America/Chicago` may be before them"
        )
    for field, value in zip(_FIELDS, fields, strict=False):
        field.require(value)
    return text.strip()


def _require_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("CRON_TZ must name a time zone as IANA does, such as America/Chicago") from None


@dataclass(frozen=True)
class KeptBackups:
    """How many scheduled backups of an instance stay, at least.

    Attributes:
        daily: the first ones of as many days (UTC).
        weekly: those of as many weeks, which begin on Monday.
        monthly: those of as many months.
    """

    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    @classmethod
    def of(cls, text: str) -> Self | None:
        """What the setting says, such as `daily=7,weekly=4`; None if it is empty: all stay.

        Raises:
            ValueError: it says something else.
        """
        if not text.strip():
            return None
        counts: dict[str, int] = {}
        for part in text.split(","):
            word, _, count = (side.strip() for side in part.partition("="))
            is_count = count.isascii() and count.isdecimal() and int(count) <= _MOST_KEPT
            if word not in cls.__dataclass_fields__ or word in counts or not is_count:
                raise ValueError(
                    f"must look like daily=7,weekly=4,monthly=12, each once at most and 0 to {_MOST_KEPT}"
                )
            counts[word] = int(count)
        if not any(counts.values()):
            raise ValueError("must keep at least one; an empty value keeps all")
        return cls(**counts)


def require_kept(text: str) -> str:
    """Check the setting that `KeptBackups.of` reads.

    Raises:
        ValueError: it cannot be read.
    """
    KeptBackups.of(text)
    return text.strip()
