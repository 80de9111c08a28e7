"""Charts: what is drawn where. Pure functions from figures to shapes; `macros/charts.html` writes the SVG.

Places across are percent of the width, so that a chart fits every page while its texts keep their size;
places down are pixels.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from math import ceil, floor, log10

from ods.console.formats import duration

_TOP, _BASE = 20, 180
"""Where the highest value and the zero of a chart by days are."""
_BELOW = 20
"""Pixels for the texts below."""
_LEFT, _RIGHT = 1.0, 99.0
_FIRST_DAY = 11.0
"""Where charts by days begin: left of it is what stands at the lines."""
_LINES = 3
"""About how many lines across a chart has, the one at zero aside."""
_ROUND = (1, 2, 5, 10)
_TIMES = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0, 864_000.0)
"""Seconds at which a chart of durations has a line."""
_ROW = 40
_LEAST = 2.0
"""Pixels that a column has at least: one failure among thousands of jobs is seen."""
_COLUMN = 0.7
"""The part of its day that a column takes."""


@dataclass(frozen=True)
class Mark:
    """A line of the scale: where it is, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A part of a line, from one point to the next."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class LineChart:
    """Values over time.

    Attributes:
        height: pixels.
        left: where the first day is.
        base: where zero is.
        marks: the lines above it.
        segments: the line that is drawn.
        end: where the last value is.
    """

    height: int
    left: float
    base: int
    marks: Sequence[Mark]
    segments: Sequence[Segment]
    end: tuple[float, float]


@dataclass(frozen=True)
class Column:
    """Numbers of one day.

    Attributes:
        above: what is drawn above zero, one upon the other, by the class of the style sheet.
        below: what is drawn below zero.
    """

    above: Mapping[str, int]
    below: Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """A part of a column; `tone` is the class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    tone: str


@dataclass(frozen=True)
class ColumnChart:
    """Numbers by day, above and below zero.

    Attributes:
        height: pixels.
        left: where the first day is.
        base: where zero is.
        marks: the lines above and below it.
        blocks: the parts of the columns.
    """

    height: int
    left: float
    base: float
    marks: Sequence[Mark]
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Spread:
    """One row of a chart of durations.

    Attributes:
        name: what took so long.
        text_y: where the name stands.
        y: where the row's line is.
        at: where the durations are, the shortest first.
    """

    name: str
    text_y: int
    y: int
    at: Sequence[float]


@dataclass(frozen=True)
class SpreadChart:
    """Durations on a scale on which each line is about ten times the one before.

    Attributes:
        height: pixels.
        base: where the rows end.
        marks: the lines of the scale, from left to right.
        rows: the rows.
    """

    height: int
    base: int
    marks: Sequence[Mark]
    rows: Sequence[Spread]


def line_chart(points: Sequence[tuple[date, int]], write: Callable[[float], str]) -> LineChart | None:
    """A line through values over time, on a scale that begins at zero.

    Args:
        points: the values by their days, the oldest first.
        write: how a value is written.

    Returns:
        None if there are fewer than two days, between which a line could be drawn.
    """
    if len(points) < 2:  # noqa: PLR2004 - the ends of a line
        return None
    first, last = points[0][0], points[-1][0]
    steps = _steps(max(value for _, value in points))
    per_pixel = steps[-1] / (_BASE - _TOP)

    def place(day: date, value: float) -> tuple[float, float]:
        part = (day - first) / (last - first)
        return _across(part, _FIRST_DAY), round(_BASE - value / per_pixel, 1)

    places = [place(*point) for point in points]
    marks = [Mark(place(last, step)[1], write(step)) for step in steps]
    segments = [Segment(*one, *other) for one, other in pairwise(places)]
    return LineChart(_BASE + _BELOW, _FIRST_DAY, _BASE, marks, segments, places[-1])


def column_chart(columns: Sequence[Column]) -> ColumnChart | None:
    """A column for each day; None if all are empty."""
    most_above = max((sum(column.above.values()) for column in columns), default=0)
    most_below = max((sum(column.below.values()) for column in columns), default=0)
    if not most_above and not most_below:
        return None
    step = _steps(max(most_above, most_below))[0]
    above, below = (ceil(most / step) * step for most in (most_above, most_below))
    per_pixel = (above + below) / (_BASE - _TOP)
    base = round(_TOP + above / per_pixel, 1)
    marks = [
        Mark(round(base - step * number / per_pixel, 1), f"{abs(step * number):.0f}")
        for number in range(-round(below / step), round(above / step) + 1)
        if number
    ]
    width = (_RIGHT - _FIRST_DAY) / len(columns)
    blocks = []
    for number, column in enumerate(columns):
        x = round(_FIRST_DAY + width * (number + (1 - _COLUMN) / 2), 2)
        blocks += _stacked(column.above, x, round(width * _COLUMN, 2), base, per_pixel, upwards=True)
        blocks += _stacked(column.below, x, round(width * _COLUMN, 2), base, per_pixel, upwards=False)
    return ColumnChart(_BASE + _BELOW, _FIRST_DAY, base, marks, blocks)


def spread_chart(spreads: Mapping[str, Sequence[float]]) -> SpreadChart | None:
    """A row of durations for each name; None if there is none.

    Args:
        spreads: by name some durations in seconds, the shortest first.
    """
    if not spreads:
        return None
    shortest = max(min(seconds[0] for seconds in spreads.values()), _TIMES[0])
    longest = min(max(seconds[-1] for seconds in spreads.values()), _TIMES[-1])
    first = min(bisect_right(_TIMES, shortest) - 1, len(_TIMES) - 2)
    lines = _TIMES[first : max(bisect_left(_TIMES, longest), first + 1) + 1]

    def place(seconds: float) -> float:
        within = min(max(seconds, lines[0]), lines[-1])
        return _across(log10(within / lines[0]) / log10(lines[-1] / lines[0]))

    rows = [
        Spread(name, _ROW * number + 16, _ROW * number + 28, [place(one) for one in seconds])
        for number, (name, seconds) in enumerate(spreads.items())
    ]
    base = _ROW * len(rows)
    marks = [Mark(place(line), duration(line)) for line in lines]
    return SpreadChart(base + _BELOW, base, marks, rows)


def _stacked(  # noqa: PLR0913 - where the stack begins, and how it grows
    parts: Mapping[str, int], x: float, width: float, base: float, per_pixel: float, *, upwards: bool
) -> list[Block]:
    """The parts of a column, one after the other away from zero."""
    blocks, at = [], base
    for tone, count in parts.items():
        if not count:
            continue
        height = round(max(count / per_pixel, _LEAST), 1)
        top = at - height if upwards else at
        blocks.append(Block(x, round(top, 1), width, height, tone))
        at = top if upwards else at + height
    return blocks


def _steps(most: float) -> list[float]:
    """Round values at equal distances; the last one is `most` or the next above it."""
    least = max(most, 1) / _LINES
    power = 10 ** floor(log10(least))
    step = max(next(times * power for times in _ROUND if times * power >= least * 0.999), 1)
    return [step * number for number in range(1, max(ceil(most / step), 1) + 1)]


def _across(part: float, left: float = _LEFT) -> float:
    return round(left + (_RIGHT - left) * part, 2)
