"""The list of jobs, the newest first."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.engine import fetch_all
from ods.registry.storage.models import Job
from ods.registry.storage.sessions import RegistrySessions


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


def page_of_jobs(chosen: JobFilter, *, offset: int, limit: int) -> Select[Job]:
    """The query of a page of the chosen jobs, the newest first."""
    newest = (Job.created_at.desc(), Job.id.desc())
    return select(Job).where(*chosen.conditions).order_by(*newest).offset(offset).limit(limit)
