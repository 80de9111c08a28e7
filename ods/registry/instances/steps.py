"""The guarded writes that move an instance and its job on, and the jobs that are made of its row.

The row is the outbox of its job: a request is committed there first, then a workflow carries it out. Every
write by a job is guarded by the fencing token and by the statuses that the step may start from. So a late or
repeated attempt changes nothing, nor does one at another instance that had the same id before the registry
was restored.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Double,
    SQLColumnExpression,
    Update,
    Uuid,
    and_,
    any_,
    cast,
    exists,
    func,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.arguments import require_fitting, takes_away
from ods.model.operations import WAITING, InstanceStatus, JobStatus, Operation, Step
from ods.observability.metrics.catalog import JOB_SECONDS, JOBS
from ods.registry.backups.rows import count_failure
from ods.registry.installation import InstallationStore
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob, Replacement
from ods.registry.instances.revisions import renew
from ods.registry.storage.models import UTC_NOW, DbInstance, InstanceDatabase, Job
from ods.registry.storage.sessions import when_committed
from ods.settings.settings import DEFAULT_TENANT

_logger = logging.getLogger(__name__)

Guard = Collection[SQLColumnExpression[bool]]
"""What must hold of an instance's row for a step to be taken."""

NO_PROGRESS: Mapping[str, Any] = {"percent": None, "eta_seconds": None}
"""Columns of a job that does not report how far it is."""


def waited_until(moment: ColumnElement[Any]) -> ColumnElement[float]:
    """For how many seconds a job has waited until then, with the wait that is recorded as going on."""
    # `greatest` ignores the NULL of a job that waits for nothing.
    since = func.greatest(func.extract("epoch", moment - Job.waiting_since).cast(Double), 0.0)
    return Job.waited_seconds + since


WAITS_FOR_NOTHING: Mapping[str, Any] = {
    "waiting_for": None,
    "waiting_since": None,
    "waiting_until": None,
    "waited_seconds": waited_until(UTC_NOW),
}
"""Columns of a job that runs, or has ended."""


class JobFactory:
    """Makes the jobs of one tenant's instances, as workflows get them."""

    def __init__(
        self, installation: InstallationStore, policy: ExecutionPolicy, tenant: str = DEFAULT_TENANT
    ) -> None:
        self.installation = installation
        self.policy = policy
        self.tenant = tenant

    def next_attempt(self, instance: DbInstance) -> InstanceJob:
        """The next attempt at the instance's job, which is due if the instance waits."""
        return self._job(instance, instance.attempt + 1)

    def last_attempt(self, instance: DbInstance) -> InstanceJob:
        """The attempt at the instance's job that began last."""
        return self._job(instance, instance.attempt)

    def current_attempt(self, instance: DbInstance) -> InstanceJob:
        """The attempt at the instance's job that waits, or is under way."""
        waits = instance.status in WAITING
        return self.next_attempt(instance) if waits else self.last_attempt(instance)

    def _job(self, instance: DbInstance, attempt: int) -> InstanceJob:
        return InstanceJob(
            tenant=self.tenant,
            operation=Operation(instance.operation),
            arguments=instance.arguments,
            instance_id=instance.id,
            ods_instance_id=instance.ods_instance_id,
            number=instance.job_number,
            attempt=attempt,
            name=instance.name,
            template=instance.database_template,
            database=instance.database_name,
            database_id=str(instance.database_id),
            mark=str(instance.mark),
            request=str(instance.request),
            published=instance.is_published,
            policy=self.policy,
            new_name=instance.new_name,
            new_database=instance.new_database_name,
            installation=self.installation.known_id,
            replacement=None if instance.replacement is None else Replacement.read(instance.replacement),
        )


def readable(rows: Iterable[DbInstance]) -> list[DbInstance]:
    """Those of the rows whose last job this release can read; the others are left to the release that can."""
    known = []
    for row in rows:
        try:
            require_fitting(Operation(row.operation), row.arguments)
            if row.replacement is not None:
                Replacement.read(row.replacement)
            known.append(row)
        except ValueError:
            _logger.warning("The job of instance %s is one of another release, and left to that.", row.id)
    return known


_RETRIES_AFTER_OUTAGES = 5
"""How often a delete that an outage ended is tried again without the operator."""


def is_tried_after_outage() -> ColumnElement[bool]:
    """An outage has ended the delete of the row, and a pass tries it again by itself."""
    has_failed = DbInstance.status == InstanceStatus.DELETE_FAILED
    return and_(has_failed, DbInstance.outages.between(1, _RETRIES_AFTER_OUTAGES))


def fencing_token(job: InstanceJob, attempt: int | None = None) -> Guard:
    """The row is at this request and this attempt at its job (by default the job's own), under its mark."""
    return (
        DbInstance.id == job.instance_id,
        DbInstance.mark == UUID(job.mark),
        DbInstance.request == UUID(job.request),
        DbInstance.attempt == (job.attempt if attempt is None else attempt),
    )


def fencing_token_of(operation: Operation, job: InstanceJob) -> Guard:
    """The same, and the row's last job is of this operation."""
    return (*fencing_token(job), DbInstance.operation == operation)


def own_database(job: InstanceJob) -> Update:
    """An update of the row of the database that the job works on."""
    return database_of(job, job.database_id)


def database_of(job: InstanceJob, database_id: str) -> Update:
    """An update of the row of this database (a UUID) of the job's instance."""
    its = (
        InstanceDatabase.instance_id == job.instance_id,
        InstanceDatabase.database_id == UUID(database_id),
    )
    return update(InstanceDatabase).where(*its)


def is_to_end() -> ColumnElement[bool]:
    """The row is at an attempt that is under way, and that a client has cancelled."""
    return and_(DbInstance.status == InstanceStatus.IN_PROGRESS, is_cancelled())


def purge_follows() -> ColumnElement[bool]:
    """A purge with a backup was requested together with the delete that is the row's last job."""
    return and_(DbInstance.goes_to_trash, DbInstance.backup_first)


CALLED_OFF: Mapping[str, object] = {"cancelled_attempt": DbInstance.attempt}
"""Columns of a row whose last attempt a client has cancelled, or does not want to be tried again."""


def is_cancelled() -> ColumnElement[bool]:
    """A client has cancelled the row's last attempt, or does not want it to be tried again."""
    return DbInstance.cancelled_attempt.is_not_distinct_from(DbInstance.attempt)


def has_mark(marks: Collection[str]) -> ColumnElement[bool]:
    """The row has one of these marks (UUIDs)."""
    return DbInstance.mark == any_(literal([UUID(mark) for mark in marks], ARRAY(Uuid)))


Also = Callable[[CTE], Sequence[CTE]]
"""Makes what is written to other tables with a step, from the row that has taken the step."""


async def take_step(  # noqa: PLR0913, PLR0917 - a statement of many parts
    session: AsyncSession,
    job: InstanceJob,
    step: Step,
    values: Mapping[str, object],
    guard: Guard,
    also: Also | None = None,
) -> bool:
    """Take `step`, in one statement, if the row fulfils `guard` and has one of the step's statuses.

    Writes `values` to the row, the same outcome to the job's own row, and `also` to other tables. Returns
    whether the step was taken now.
    """
    moved = (
        update(DbInstance)
        .where(*guard, DbInstance.status.in_(step.sources))
        .values({"status": step.target, "attempt": job.attempt, "last_modified": UTC_NOW, **values})
        .returning(DbInstance.id)
        .cte("moved")
    )
    passed = func.extract("epoch", func.coalesce(Job.finished_at, Job.started_at) - Job.created_at)
    recorded = (
        job_record(job, step.job, values.get("error_message"))
        .where(exists(select(moved.c.id)))
        .returning((cast(passed, Double) - Job.waited_seconds).label("seconds"))
        .cte("recorded")
    )
    query = select(moved.c.id, recorded.c.seconds).select_from(moved.outerjoin(recorded, true()))
    if also is not None:
        query = query.add_cte(*also(moved))
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return False
    if step.job is JobStatus.ERROR:
        await count_failure(session, job)
        if takes_away(job.operation, job.arguments):  # what the client has after that is to stay
            await renew(session, job.instance_id)
    when_committed(session, partial(_measure, job, step.job, row[1]))
    return True


async def _measure(job: InstanceJob, reached: JobStatus, seconds: float | None) -> None:
    """Count a job that has ended, and measure how long one has queued, or taken without its waits."""
    match reached:
        case JobStatus.PENDING:
            pass
        case JobStatus.IN_PROGRESS:
            if job.attempt == 1 and seconds is not None:  # a later attempt has waited for a person
                JOB_SECONDS.labels(job.kind.name, "queue").observe(seconds)
        case JobStatus.COMPLETED:
            JOBS.labels(job.kind.name, "completed", job.tenant).inc()
            if seconds is not None:
                JOB_SECONDS.labels(job.kind.name, "total").observe(seconds)
        case JobStatus.ERROR:
            JOBS.labels(job.kind.name, "failed", job.tenant).inc()
        case _:
            assert_never(reached)


async def take_step_once(
    session: AsyncSession, job: InstanceJob, step: Step, values: Mapping[str, object], guard: Guard
) -> bool:
    """As `take_step`, safe to repeat: true as well if this attempt of the job took the step before."""
    return await take_step(session, job, step, values, guard) or await has_taken(session, job, step, guard)


async def has_taken(session: AsyncSession, job: InstanceJob, step: Step, guard: Guard) -> bool:
    """Whether the row that fulfils `guard` is where `step` leads, and the job's own row agrees.

    Two steps of a job on a working instance, its end and its failure, lead to one status.
    """
    otherwise = exists().where(Job.job_id == job.job_id, Job.status != step.job)
    return await is_at(session, (*guard, ~otherwise), step.target)


async def is_at(session: AsyncSession, guard: Guard, status: InstanceStatus) -> bool:
    """Whether there is a row that fulfils `guard` and has this status."""
    query = select(DbInstance.id).where(*guard, DbInstance.status == status)
    return await session.scalar(query) is not None


def job_record(job: InstanceJob, reached: JobStatus, error: object = None) -> Update:
    """The statement that records in the job's own row which status it has reached, and why it failed."""
    return update(Job).where(Job.job_id == job.job_id).values(**job_values(reached, error))


def job_values(reached: JobStatus, error: object = None) -> Mapping[str, Any]:
    """The columns of a job that has reached this status, and why it failed."""
    values = {"status": reached, "error_message": error, **WAITS_FOR_NOTHING, **NO_PROGRESS}
    match reached:
        case JobStatus.PENDING:
            values |= {"finished_at": None}
        case JobStatus.IN_PROGRESS:
            values |= {"started_at": UTC_NOW, "finished_at": None, "waited_seconds": 0}
        case JobStatus.COMPLETED | JobStatus.ERROR:
            values |= {"finished_at": UTC_NOW}
        case _:
            assert_never(reached)
    return values
