"""What the charts show: sizes over time, jobs by day, and how long jobs took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Annotated

from fastapi import Depends

from api.dependencies import JobListDep, SizeHistoryDep
from ods.console.charts import (
    Column,
    ColumnChart,
    LineChart,
    SpreadChart,
    column_chart,
    line_chart,
    spread_chart,
)
from ods.console.formats import size
from ods.registry.instances.job_list import JobDurations, JobsOfDay
from ods.registry.instances.sizes import SizeOfDay

_MOST_POINTS = 61
"""How many sizes are shown at most: of two months that of each day, of a year that of each sixth day."""


@dataclass(frozen=True)
class SizesView:
    """Sizes over time, the oldest first; the chart is None as long as there are no two days."""

    points: Sequence[SizeOfDay]
    chart: LineChart | None


@dataclass(frozen=True)
class JobsByDay:
    """Jobs by the day of their request, the oldest first; the chart is None if there was none."""

    days: Sequence[JobsOfDay]
    chart: ColumnChart | None

    @property
    def completed(self) -> int:
        """How many were completed."""
        return sum(day.completed for day in self.days)

    @property
    def failed(self) -> int:
        """How many have failed."""
        return sum(day.failed for day in self.days)

    @property
    def under_way(self) -> int:
        """How many wait or run."""
        return sum(day.under_way for day in self.days)


@dataclass(frozen=True)
class DurationsView:
    """How long jobs took; the chart is None if none was completed."""

    rows: Sequence[JobDurations]
    chart: SpreadChart | None


@dataclass(frozen=True)
class Trends:
    """What is told of all instances and jobs of a tenant."""

    sizes: SizesView
    jobs: JobsByDay
    durations: DurationsView


class TrendsView:
    """Reads what the charts of a tenant show."""

    def __init__(self, sizes: SizeHistoryDep, jobs: JobListDep) -> None:
        self._sizes = sizes
        self._jobs = jobs

    async def trends(self) -> Trends:
        """Those of all instances and jobs."""
        days = await self._jobs.by_day()
        columns = [
            Column({"good": day.completed, "busy": day.under_way}, {"bad": day.failed}) for day in days
        ]
        durations = await self._jobs.durations()
        spreads = {one.operation: one.seconds for one in durations}
        return Trends(
            _sizes_view(await self._sizes.of_all()),
            JobsByDay(days, column_chart(columns)),
            DurationsView(durations, spread_chart(spreads)),
        )

    async def sizes_of(self, instance_id: int, now: int | None) -> SizesView:
        """The sizes of the instance's database.

        Args:
            instance_id: the id of the instance.
            now: its size now, in bytes; None if that is not known.
        """
        found = await self._sizes.of_instance(instance_id)
        if now is None:
            return _sizes_view(found)
        today = datetime.now(UTC).date()
        return _sizes_view([*(size for size in found if size.day < today), SizeOfDay(today, now)])


TrendsViewDep = Annotated[TrendsView, Depends()]


def _sizes_view(sizes: Sequence[SizeOfDay]) -> SizesView:
    points = thinned(sizes)
    return SizesView(points, line_chart([(point.day, point.bytes) for point in points], _written))


def thinned(sizes: Sequence[SizeOfDay]) -> Sequence[SizeOfDay]:
    """As many of them as a chart shows, at equal distances; the last one is among them."""
    every = ceil(len(sizes) / _MOST_POINTS) or 1
    return sizes[::-1][::every][::-1]


def _written(count: float) -> str:
    return size(round(count))
