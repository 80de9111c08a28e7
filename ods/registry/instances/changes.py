"""What has changed of instances and jobs lately: one cheap query, whatever the number of instances."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JOB_UNDER_WAY
from ods.registry.storage.models import DbInstance, Job
from ods.registry.storage.sessions import RegistrySessions

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
