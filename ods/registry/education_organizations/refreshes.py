"""Refresh jobs: rows of `adminapi.jobstatuses` that ask for education organizations to be read anew.

The row is the job's outbox: it is committed before the workflow is started. A *scope* is one ODS instance or,
without an id, all of them. Of a scope one job runs at a time, because one workflow does, and at most one
waits. A request made while one waits joins it: that job has read nothing yet, so it will read what the client
has changed before. A request made while one runs gets a new job, which begins when that one has ended.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JOB_UNDER_WAY, REFRESH, JobStatus
from ods.registry.instances.jobs import tenant_id
from ods.registry.storage.models import REFRESH_WAITS, UTC_NOW, Job
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.settings import DEFAULT_TENANT, Settings

CANCELLED = "The refresh was cancelled. Request another one."
"""Why a refresh that was cancelled has failed."""


@dataclass(frozen=True)
class Scope:
    """The ODS instance whose education organizations are read; None: all of the tenant's."""

    ods_instance_id: int | None
    tenant: str = DEFAULT_TENANT

    @property
    def workflow_id(self) -> str:
        """Temporal runs one workflow of an id at a time, which is the scope's lock."""
        suffix = "" if self.ods_instance_id is None else f"-{self.ods_instance_id}"
        return tenant_id(self.tenant, f"refresh-education-organizations{suffix}")


@dataclass(frozen=True)
class RefreshPolicy:
    """How a refresh is executed; it travels with the job, because a workflow may not read settings."""

    queue: str
    heartbeat_timeout: float

    @classmethod
    def from_settings(cls, settings: Settings) -> "RefreshPolicy":
        """The policy of refreshes that this process starts."""
        return cls(queue=settings.refresh_queue, heartbeat_timeout=settings.heartbeat_timeout)


class RefreshJobs:
    """The state changes of one tenant's refresh jobs, each one statement."""

    def __init__(self, engine: AsyncEngine, tenant: str = DEFAULT_TENANT) -> None:
        self._sessions = RegistrySessions(engine)
        self.tenant = tenant

    async def request(self, scope: Scope) -> str:
        """Record that `scope` shall be refreshed; returns the id of the job that waits to do it."""
        while True:
            # Between the two, the job that waits may begin; then a new one can be recorded.
            if job := await self._recorded(scope) or await self._first(scope, JobStatus.PENDING):
                return job

    async def request_unless_unfinished(self, scope: Scope) -> None:
        """Record that `scope` shall be refreshed, if no job does that or waits to do it."""
        if await self._first(scope, *JOB_UNDER_WAY) is None:
            await self.request(scope)

    async def begin(self, scope: Scope) -> str | None:
        """Take the job of `scope` that is due; returns its id, or None if there is none.

        Safe to repeat: a job that has begun is due until it has ended. Only the workflow of the scope calls
        this, so a job that has begun is its own, or that of an earlier run that could not record its end.
        """
        due = _due(scope, *JOB_UNDER_WAY).with_for_update().scalar_subquery()
        values = {"status": JobStatus.IN_PROGRESS, "started_at": func.coalesce(Job.started_at, UTC_NOW)}
        async with self._sessions.statement() as session:
            begun = update(Job).where(Job.job_id == due).values(**values).returning(Job.job_id)
            return (await session.scalars(begun)).one_or_none()

    async def finish(self, job_id: str, status: JobStatus, message: str | None) -> None:
        """Record how a job has ended. Safe to repeat."""
        ended = {"status": status, "error_message": message, "finished_at": UTC_NOW}
        running = (Job.job_id == job_id, Job.status == JobStatus.IN_PROGRESS)
        async with self._sessions.statement() as session:
            await session.execute(update(Job).where(*running).values(**ended))

    async def cancel(self, job_id: str, state: JobStatus) -> bool:
        """Record that a job was cancelled, if it is in `state`; returns whether it was.

        A job that is in progress must have no workflow: only that would end the reading as well.
        """
        ended = {"status": JobStatus.ERROR, "error_message": CANCELLED, "finished_at": UTC_NOW}
        cancelled = (
            update(Job)
            .where(Job.job_id == job_id, Job.operation == REFRESH, Job.status == state)
            .values(**ended)
            .returning(Job.id)
        )
        async with self._sessions.statement() as session:
            return await session.scalar(cancelled) is not None

    async def unfinished(self) -> Sequence[Scope]:
        """The scopes with jobs that wait or run."""
        query = select(Job.ods_instance_id).where(Job.operation == REFRESH, Job.status.in_(JOB_UNDER_WAY))
        async with self._sessions.statement() as session:
            return [Scope(found, self.tenant) for found in await session.scalars(query.distinct())]

    async def _recorded(self, scope: Scope) -> str | None:
        """The id of a new job, unless one of the scope waits."""
        statement = (
            insert(Job)
            .values(
                job_id=f"RefreshEducationOrganizationsJob-{uuid.uuid4()}",
                status=JobStatus.PENDING,
                created_at=UTC_NOW,
                operation=REFRESH,
                ods_instance_id=scope.ods_instance_id,
            )
            .on_conflict_do_nothing(
                index_elements=[text("coalesce(odsinstanceid, 0)")], index_where=REFRESH_WAITS
            )
            .returning(Job.job_id)
        )
        async with self._sessions.statement() as session:
            return (await session.scalars(statement)).one_or_none()

    async def _first(self, scope: Scope, *statuses: JobStatus) -> str | None:
        async with self._sessions.statement() as session:
            return await session.scalar(_due(scope, *statuses))


def _due(scope: Scope, *statuses: JobStatus) -> Select[str]:
    """The scope's first job in one of `statuses`; one that runs comes before one that waits."""
    its = Job.ods_instance_id.is_not_distinct_from(scope.ods_instance_id)
    return (
        select(Job.job_id)
        .where(Job.operation == REFRESH, Job.status.in_(statuses), its)
        .order_by(Job.status == JobStatus.PENDING, Job.id)
        .limit(1)
    )
