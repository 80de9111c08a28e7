"""The results of a section: measurements, each with its bare cost, and limits."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self


@dataclass(frozen=True)
class Measurement:
    """Repeated measurements of one thing, and of the bare server or framework in the same run."""

    name: str
    values: Sequence[float]
    unit: str = "ms"
    bare: Self | None = None

    @cached_property
    def median(self) -> float:
        """Half of the values are less."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """One value in twenty is more."""
        return percentile(self.values, 0.95)

    @property
    def p99(self) -> float:
        """One value in a hundred is more."""
        return percentile(self.values, 0.99)

    @property
    def ratio(self) -> float | None:
        """Median, in medians of the bare cost; None if there is nothing bare to compare with."""
        return None if self.bare is None or not self.bare.median else self.median / self.bare.median


@dataclass(frozen=True)
class Limit:
    """What a figure may be at most, or at least."""

    subject: str
    value: float
    bound: float
    unit: str
    is_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the figure is within the limit."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound


@dataclass(frozen=True)
class Chart:
    """Curves to be drawn: points of x and y, by the name of each curve."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Findings:
    """What one section found; notes are sentences for the reader of the table."""

    measurements: Sequence[Measurement]
    limits: Sequence[Limit] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()


def at_most(subject: str, value: float, bound: float, unit: str = "ms") -> Limit:
    """The figure may be `bound` or less."""
    return Limit(subject, value, bound, unit)


def at_least(subject: str, value: float, bound: float, unit: str = "") -> Limit:
    """The figure must be `bound` or more."""
    return Limit(subject, value, bound, unit, is_least=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
