"""What became of the jobs of the last days, and how long they took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from sqlalchemy import ARRAY, ColumnElement, Date, Float, Select, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JOB_UNDER_WAY, JobStatus
from ods.registry.storage.models import UTC_NOW, Job
from ods.registry.storage.sessions import RegistrySessions

DAYS = 30
"""How many days are counted, today included."""
SHARES = (0.5, 0.9, 0.99)
"""Of each kind of jobs: how long this share of them took at most."""

_TODAY = cast(UTC_NOW, Date)


@dataclass(frozen=True)
class JobsOfDay:
    """What became of the jobs that were requested on one day, in UTC."""

    day: date
    completed: int
    failed: int
    under_way: int


@dataclass(frozen=True)
class JobDurations:
    """How many seconds `SHARES` of the completed jobs of one operation took at most, without waits."""

    operation: str
    count: int
    seconds: Sequence[float]


class JobStatistics:
    """Counts one tenant's jobs of the last days."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def by_day(self) -> Sequence[JobsOfDay]:
        """What became of the jobs of each of the last days, the oldest first; also of days without any."""
        async with self._sessions.snapshot() as session:
            today = (await session.scalars(select(_TODAY))).one()
            counted = {row.day: JobsOfDay(*row) for row in (await session.execute(_counts(today))).all()}
        days = (today - timedelta(days=before) for before in reversed(range(DAYS)))
        return [counted.get(day) or JobsOfDay(day, 0, 0, 0) for day in days]

    async def durations(self) -> Sequence[JobDurations]:
        """How long each kind of jobs took that were requested within the last days, by their names."""
        async with self._sessions.snapshot() as session:
            today = (await session.scalars(select(_TODAY))).one()
            rows = (await session.execute(_durations(today))).all()
        return [JobDurations(operation or "", count, seconds) for operation, count, seconds in rows]


def _counts(today: date) -> Select[date, int, int, int]:
    day = cast(Job.created_at, Date).label("day")
    return (
        select(
            day,
            func.count().filter(Job.status == JobStatus.COMPLETED),
            func.count().filter(Job.status == JobStatus.ERROR),
            func.count().filter(Job.status.in_(JOB_UNDER_WAY)),
        )
        .where(_is_recent(today))
        .group_by(day)
    )


def _durations(today: date) -> Select[str | None, int, list[float]]:
    shares = func.percentile_cont(literal(list(SHARES), ARRAY(Float))).within_group(Job.worked_seconds)
    took = Job.operation.is_not(None), Job.started_at.is_not(None), Job.finished_at.is_not(None)
    return (
        select(Job.operation, func.count(), shares)
        .where(_is_recent(today), Job.status == JobStatus.COMPLETED, *took)
        .group_by(Job.operation)
        .order_by(Job.operation)
    )


def _is_recent(today: date) -> ColumnElement[bool]:
    first = datetime.combine(today - timedelta(days=DAYS - 1), time.min)
    return Job.created_at >= first
