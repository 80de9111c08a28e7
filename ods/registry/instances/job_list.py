"""The list of jobs; what became of those of the last days; and what has changed within the last seconds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from sqlalchemy import ARRAY, ColumnElement, Date, Float, Select, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JOB_UNDER_WAY, JobStatus
from ods.registry.storage.engine import fetch_all
from ods.registry.storage.models import UTC_NOW, DbInstance, Job
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


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are listed: those that fulfil everything that is given.

    A job was created at `created_from` or later, and before `created_to`, in UTC without a zone.
    """

    statuses: Collection[str] = ()
    operations: Collection[str] = ()
    instance_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """What must hold of a job's row."""
        found: list[ColumnElement[bool]] = []
        if self.statuses:
            found.append(Job.status.in_(self.statuses))
        if self.operations:
            found.append(Job.operation.in_(self.operations))
        if self.instance_id is not None:
            found.append(Job.instance_id == self.instance_id)
        if self.created_from is not None:
            found.append(Job.created_at >= self.created_from)
        if self.created_to is not None:
            found.append(Job.created_at < self.created_to)
        return found


class JobList:
    """Lists one tenant's jobs: those of its instances, its refreshes, and those that another product left."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def page(self, chosen: JobFilter, *, offset: int, limit: int) -> Sequence[Job]:
        """A page of the chosen jobs, the newest first."""
        async with self._sessions.statement() as session:
            return await fetch_all(session, page_of_jobs(chosen, offset=offset, limit=limit))

    async def count(self, chosen: JobFilter) -> int:
        """How many jobs are chosen."""
        query = select(func.count()).select_from(Job).where(*chosen.conditions)
        async with self._sessions.statement() as session:
            return (await session.scalars(query)).one()

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


def page_of_jobs(chosen: JobFilter, *, offset: int, limit: int) -> Select[Job]:
    """The query of a page of the chosen jobs, the newest first."""
    newest = (Job.created_at.desc(), Job.id.desc())
    return select(Job).where(*chosen.conditions).order_by(*newest).offset(offset).limit(limit)


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


_LATELY = timedelta(seconds=10)
"""How long a transaction may take from the time that it writes into a row until it is committed."""


@dataclass(frozen=True)
class JobState:
    """What pages show of a job that waits or runs; `instance_id` is None if it is no single instance's."""

    instance_id: int | None
    status: str
    waiting_for: str | None
    percent: int | None
    eta_seconds: int | None


@dataclass(frozen=True)
class RecentState:
    """When each instance changed within the last seconds was changed; and each job that waits or runs."""

    instances: Mapping[int, datetime | None]
    jobs: Mapping[str, JobState]


class RecentChanges:
    """Reads one tenant's recent changes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def jobs_under_way(self) -> Mapping[str, JobState]:
        """Each job that waits or runs, by its id."""
        columns = (Job.job_id, Job.instance_id, Job.status, Job.waiting_for, Job.percent, Job.eta_seconds)
        async with self._sessions.statement() as session:
            jobs = (await session.execute(select(*columns).where(Job.status.in_(JOB_UNDER_WAY)))).all()
        return {row.job_id: JobState(*row[1:]) for row in jobs}

    async def read(self) -> RecentState:
        """What may have changed lately. Each of both queries is answered from an index."""
        # The time of the statement, not of the clock, which no index can be searched by.
        lately = DbInstance.last_modified > func.timezone("utc", func.now()) - _LATELY
        query = select(DbInstance.id, DbInstance.last_modified).where(lately)
        async with self._sessions.statement() as session:
            instances = (await session.execute(query)).all()
        changed = {row.id: row.last_modified for row in instances}
        return RecentState(changed, await self.jobs_under_way())
