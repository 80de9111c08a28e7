"""How times, durations and sizes are written: three significant figures and a unit."""

from datetime import UTC, datetime

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
UNKNOWN = "–"  # noqa: RUF001 - a dash
"""What is not known."""
_THOUSAND = 1000
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
_JUST_NOW_SECONDS = 1


def figures(value: float) -> str:
    """The number with three significant figures: `0.62`, `4.21`, `62.5`, `812`."""
    written = f"{value:.3g}"
    return f"{value:.0f}" if "e" in written else written


def size(count: int | None) -> str:
    """A number of bytes: `812 MB`; a dash if it is not known."""
    if count is None:
        return UNKNOWN
    value, unit = float(count), 0
    while round(value) >= _THOUSAND and unit < len(_SIZES) - 1:
        value, unit = value / _THOUSAND, unit + 1
    return f"{figures(value)} {_SIZES[unit]}"


def duration(seconds: float | None) -> str:
    """A duration: `620 ms`, `4.21 s`, `12.3 min`; a dash if it is not known."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{figures(round(seconds * _THOUSAND))} ms"
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{figures(seconds / length)} {unit}"
    return f"{figures(seconds)} s"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago a time was, in whole units: `3 d`; of a time to come, how long until then."""
    seconds = abs(((now or datetime.now(UTC)) - in_utc(at)).total_seconds())
    if seconds < _JUST_NOW_SECONDS:
        return "0 s"
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def iso(at: datetime) -> str:
    """The time for programs: ISO 8601, in UTC."""
    return in_utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def exact(at: datetime) -> str:
    """The time for people: `2026-11-26 07:45:00 UTC`."""
    return in_utc(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def in_utc(at: datetime) -> datetime:
    """The time with its zone; the registry's times have none, and are UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
