"""The registry: every state change of an instance, each one guarded transaction.

An instance row is the outbox of its job. What a person asks for is committed here first; a workflow then
begins, finishes or fails it. Each of those writes is guarded by the job's fencing token (operation, number
and attempt) and by the statuses the step may start from, so a late or repeated attempt changes nothing.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Update, Uuid, any_, exists, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from instances import models, status
from instances.engine import single_statements
from instances.errors import InstanceNotFoundError, RefusedError
from instances.jobs import ExecutionPolicy, InstanceJob
from instances.models import DbInstance, Job
from instances.naming import database_name
from instances.relations import relations_of
from instances.reservations import database_taken, name_taken, require_free, reserved_id
from instances.routes import relations_reason, rename_obstacle, reroute, route, unroute
from instances.status import InstanceStatus, JobStatus, Operation, Step, Template
from settings import DEFAULT_TENANT

_NEXT_STEPS = {
    InstanceStatus.PENDING: "Its job is about to start; wait until it is Completed or Error.",
    InstanceStatus.IN_PROGRESS: "A job is running; ask again when it has ended.",
    InstanceStatus.COMPLETED: "Nothing has failed; delete the instance if it is no longer needed.",
    InstanceStatus.ERROR: "Retry the job that failed, or delete the instance.",
    InstanceStatus.PENDING_DELETE: "Its deletion is about to start; wait until it is Deleted.",
    InstanceStatus.DELETE_FAILED: "Retry the deletion.",
}


@dataclass(frozen=True)
class Begun:
    """Whether the job holds the instance now, and, if it may not go on all the same, why."""

    held: bool
    refusal: str | None = None


@dataclass(frozen=True)
class Requested:
    """An instance as a request left it, and the job that carries the request out."""

    instance: DbInstance
    job: InstanceJob


class Registry:
    """The state changes of one tenant's instances.

    Every change is one statement or one transaction. Connection faults come through as SQLAlchemy's and
    asyncpg's errors.
    """

    def __init__(self, engine: AsyncEngine, policy: ExecutionPolicy, tenant: str = DEFAULT_TENANT) -> None:
        self._transaction = async_sessionmaker(engine, expire_on_commit=False).begin
        self._single_statements = single_statements(engine)
        self._policy = policy
        self._tenant = tenant
        self._installation: str | None = None

    async def installation(self) -> str:
        """The id of this installation, which never changes."""
        if self._installation is None:
            async with self._single_statements() as session:
                self._installation = str((await session.scalars(select(models.Installation.id))).one())
        return self._installation

    async def reserve(self, name: str, template: Template) -> Requested:
        """Reserve an OdsInstanceId and record that `name` shall be created.

        Raises:
            NameTakenError: a live instance or an ODS instance has the name, or the database name.
        """
        database = database_name(name, template)
        try:
            async with self._transaction() as session:
                await require_free(session, name, database)
                row = insert(DbInstance).values(
                    name=name,
                    databasetemplate=template,
                    databasename=database,
                    odsinstanceid=await reserved_id(session),
                    status=InstanceStatus.PENDING,
                    operation=Operation.CREATE,
                    jobnumber=1,
                    lastrefreshed=models.UTC_NOW,
                    lastmodifieddate=models.UTC_NOW,
                )
                instance = (await session.scalars(row.returning(DbInstance))).one()
                return self._with_job(session, Requested(instance, self._job(instance)))
        except IntegrityError as error:
            raise _name_conflict(error, name, database) from None

    async def request_delete(self, instance_id: int) -> Requested:
        """Record that the instance shall be deleted, as a new job.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: a job is under way, or other rows refer to the ODS instance.
        """
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.REQUEST_DELETE.sources, "deleted")
            if instance.publishedat and (relations := await relations_of(session, instance.odsinstanceid)):
                raise RefusedError(
                    instance.status,
                    relations_reason(relations),
                    f"Remove the {', '.join(relations)} that refer to it, then delete it.",
                )
            return await self.request_delete_in(session, instance)

    async def request_delete_in(self, session: AsyncSession, instance: DbInstance) -> Requested:
        """Record, in the caller's transaction, that `instance` shall be deleted; the caller has locked it."""
        instance.newname = instance.newdatabasename = None
        return await self._next_job(session, instance, Operation.DELETE, status.REQUEST_DELETE)

    async def request_rename(self, instance_id: int, name: str) -> Requested:
        """Reserve `name` and record, as a new job, that the instance shall have it.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: a job is under way, or the instance was never created.
            NameTakenError: another live instance or ODS instance has the name, or the database name.
        """
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.REQUEST_RENAME.sources, "renamed")
            _require_created(instance, "renamed")
            database = database_name(name, Template(instance.databasetemplate))
            await require_free(session, name, database, but_for=instance)
            instance.newname, instance.newdatabasename = name, database
            return await self._next_job(session, instance, Operation.RENAME, status.REQUEST_RENAME)

    async def request_retry(self, instance_id: int) -> Requested:
        """Put a failed job back to waiting: the same job, one attempt later.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: the instance's last job has not failed.
        """
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            step = status.RETRY[Operation(instance.operation)]
            _require(instance, step.sources, "retried")
            _advance(instance, step)
            requested = await self._requested(session, instance)
            await session.execute(_job_record(requested.job, step.job))
            return requested

    @asynccontextmanager
    async def adopting(self, instance_id: int) -> AsyncIterator[DbInstance]:
        """The instance that shall get a database; no job of it can begin while the body runs.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: it has a job under way, or never had a database.
        """
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.ADOPTABLE, "given a database")
            _require_created(instance, "given a database")
            yield instance

    async def begin(self, job: InstanceJob, refusal: str | None = None) -> Begun:
        """Take the instance for this attempt of `job`; for a delete, also stop the routing to its database.

        A rename that its ODS instance could not follow is refused.

        Safe to repeat. `held` is false if the instance has moved on, and nothing was changed then. With a
        `refusal` the instance is taken only for the job to fail with it.
        """
        # The others have more to do than to take the instance.
        takes_only = job.operation is Operation.CREATE
        async with self._single_statements() if takes_only else self._transaction() as session:
            step = status.BEGIN[job.operation]
            held = await _move(session, job, step, from_attempt=job.attempt - 1, errormessage=None)
            if held and job.operation is Operation.DELETE and job.published:
                refusal = refusal or await unroute(session, job.ods_instance_id)
            if held and job.operation is Operation.RENAME:
                refusal = await rename_obstacle(session, job)
            return Begun(held, refusal)

    async def holds(self, job: InstanceJob, state: InstanceStatus) -> bool:
        """Whether the instance is at this very attempt of `job`, in `state`."""
        async with self._single_statements() as session:
            return await _is_at(session, job, state)

    async def finish_create(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed` and route the ODS/API to its database.

        Safe to repeat. Returns whether the instance was the job's to finish.

        Raises:
            NameTakenError: an ODS instance took the name or the reserved id in the meantime.
        """
        if job.operation is not Operation.CREATE:
            return False
        step = status.FINISH[Operation.CREATE]
        try:
            async with self._transaction() as session:
                took = await _took(session, job, step, odsinstancename=job.name, publishedat=models.UTC_NOW)
                if took:
                    await route(session, job, connection_string)
                return took or await _is_at(session, job, step.target)
        except IntegrityError:
            raise name_taken(job.name) from None

    async def finish_rename(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed` under its new names, and route the ODS/API to its database.

        Safe to repeat. Returns whether the instance was the job's to finish.

        Raises:
            NameTakenError: an ODS instance took the name in the meantime.
        """
        if job.operation is not Operation.RENAME:
            return False
        step = status.FINISH[Operation.RENAME]
        names: dict[str, Any] = {
            "name": job.final_name,
            "odsinstancename": job.final_name,
            "databasename": job.final_database,
            "newname": None,
            "newdatabasename": None,
        }
        try:
            async with self._transaction() as session:
                took = await _took(session, job, step, **names)
                if took:
                    await reroute(session, job, connection_string)
                return took or await _is_at(session, job, step.target)
        except IntegrityError:
            raise name_taken(job.final_name) from None

    async def finish_delete(self, job: InstanceJob) -> bool:
        """Record the instance as `Deleted`. Safe to repeat; returns whether it was the job's to finish."""
        if job.operation is not Operation.DELETE:
            return False
        async with self._single_statements() as session:
            return await _move(session, job, status.FINISH[Operation.DELETE])

    async def fail(self, job: InstanceJob, reason: str) -> bool:
        """Record that `job` gave up, and why. Safe to repeat; returns whether it was the job's to fail."""
        async with self._single_statements() as session:
            return await _move(session, job, status.FAIL[job.operation], errormessage=reason)

    async def waiting_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Jobs of rows in `Pending` and `Pending_Delete` with ids above `after`, by id."""
        waiting = (InstanceStatus.PENDING, InstanceStatus.PENDING_DELETE)
        return [self._job(row) for row in await self._page(waiting, after, limit)]

    async def running_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Jobs of rows in `InProgress` with ids above `after`, by id, at the attempt that is under way."""
        running = (InstanceStatus.IN_PROGRESS,)
        return [self._job(row, row.attempt) for row in await self._page(running, after, limit)]

    async def release(self, job: InstanceJob) -> InstanceJob | None:
        """Put a job that nobody carries out any more back to waiting; returns the attempt that is due then.

        Safe to repeat. None if the instance has moved on, and nothing was changed then.
        """
        async with self._single_statements() as session:
            released = await _move(session, job, status.RELEASE[job.operation])
            return replace(job, attempt=job.attempt + 1) if released else None

    async def failed_jobs(self, marks: Collection[str]) -> Sequence[InstanceJob]:
        """Jobs that ended in `Error`, of the instances with these marks, at the attempt that failed."""
        query = select(DbInstance).where(
            DbInstance.status == InstanceStatus.ERROR,
            DbInstance.mark == any_(literal([UUID(mark) for mark in marks], ARRAY(Uuid))),
        )
        async with self._single_statements() as session:
            return [
                self._job(row, row.attempt) for row in await session.scalars(query.order_by(DbInstance.id))
            ]

    async def _page(self, states: Collection[InstanceStatus], after: int, limit: int) -> Sequence[DbInstance]:
        query = select(DbInstance).where(DbInstance.status.in_(states), DbInstance.id > after)
        async with self._single_statements() as session:
            return (await session.scalars(query.order_by(DbInstance.id).limit(limit))).all()

    async def _requested(self, session: AsyncSession, instance: DbInstance) -> Requested:
        await session.flush()
        await session.refresh(instance)
        return Requested(instance, self._job(instance))

    async def _next_job(
        self, session: AsyncSession, instance: DbInstance, operation: Operation, step: Step
    ) -> Requested:
        instance.operation = operation
        instance.jobnumber += 1
        instance.attempt = 0
        _advance(instance, step)
        return self._with_job(session, await self._requested(session, instance))

    def _with_job(self, session: AsyncSession, requested: Requested) -> Requested:
        """Record the job that is new with the request."""
        job = Job(
            jobid=requested.job.job_id,
            status=JobStatus.PENDING,
            createdat=models.UTC_NOW,
            dbinstanceid=requested.instance.id,
            operation=requested.job.operation,
            databasetemplate=requested.job.template,
        )
        session.add(job)
        return requested

    def _job(self, instance: DbInstance, attempt: int | None = None) -> InstanceJob:
        """An attempt at the instance's job: by default the next, which is due if the instance waits."""
        return InstanceJob(
            tenant=self._tenant,
            operation=Operation(instance.operation),
            instance_id=instance.id,
            ods_instance_id=instance.odsinstanceid,
            number=instance.jobnumber,
            attempt=instance.attempt + 1 if attempt is None else attempt,
            name=instance.name,
            template=Template(instance.databasetemplate),
            database=instance.databasename,
            mark=str(instance.mark),
            published=instance.publishedat is not None,
            policy=self._policy,
            new_name=instance.newname,
            new_database=instance.newdatabasename,
        )


def _token(job: InstanceJob, attempt: int) -> list[ColumnElement[bool]]:
    """The fence of every write by a job: the row is at this job and this attempt."""
    return [
        DbInstance.id == job.instance_id,
        DbInstance.operation == job.operation,
        DbInstance.jobnumber == job.number,
        DbInstance.attempt == attempt,
    ]


async def _move(
    session: AsyncSession, job: InstanceJob, step: Step, from_attempt: int | None = None, **values: object
) -> bool:
    """Take `step` if the row allows it; true as well if this attempt of the job took it before."""
    took = await _took(session, job, step, from_attempt, **values)
    return took or await _is_at(session, job, step.target)


async def _took(
    session: AsyncSession, job: InstanceJob, step: Step, from_attempt: int | None = None, **values: object
) -> bool:
    """Take `step` if the row allows it now, and record the same of the job: one statement."""
    token = _token(job, job.attempt if from_attempt is None else from_attempt)
    moved = (
        update(DbInstance)
        .where(*token, DbInstance.status.in_(step.sources))
        .values(status=step.target, attempt=job.attempt, lastmodifieddate=models.UTC_NOW, **values)
        .returning(DbInstance.id)
        .cte("moved")
    )
    recorded = _job_record(job, step.job, values.get("errormessage")).where(exists(select(moved.c.id)))
    return await session.scalar(select(moved.c.id).add_cte(recorded.cte("recorded"))) is not None


async def _is_at(session: AsyncSession, job: InstanceJob, target: InstanceStatus) -> bool:
    query = select(DbInstance.id).where(*_token(job, job.attempt), DbInstance.status == target)
    return await session.scalar(query) is not None


def _job_record(job: InstanceJob, reached: JobStatus, error: object = None) -> Update:
    """The statement that records how far `job` is."""
    ended = reached in {JobStatus.COMPLETED, JobStatus.ERROR}
    values = {"status": reached, "errormessage": error, "finishedat": models.UTC_NOW if ended else None}
    if reached is JobStatus.IN_PROGRESS:
        values["startedat"] = models.UTC_NOW
    return update(Job).where(Job.jobid == job.job_id).values(**values)


async def _locked(session: AsyncSession, instance_id: int) -> DbInstance:
    instance = await session.get(DbInstance, instance_id, with_for_update=True)
    if instance is None or instance.status == InstanceStatus.DELETED:
        raise InstanceNotFoundError(instance_id)
    return instance


def _require(instance: DbInstance, states: Collection[InstanceStatus], verb: str) -> None:
    if instance.status not in states:
        raise _refusal(instance, verb)


def _require_created(instance: DbInstance, verb: str) -> None:
    """Refuse what a failed create cannot have: a rename can have failed as well."""
    if instance.status == InstanceStatus.ERROR and instance.operation != Operation.RENAME:
        raise _refusal(instance, verb)


def _refusal(instance: DbInstance, verb: str) -> RefusedError:
    current = InstanceStatus(instance.status)
    reason = f"An instance in state {current} cannot be {verb}."
    return RefusedError(current, reason, _NEXT_STEPS[current])


def _advance(instance: DbInstance, step: Step) -> None:
    instance.status = step.target
    instance.errormessage = None
    instance.lastmodifieddate = models.UTC_NOW


def _name_conflict(error: IntegrityError, name: str, database: str) -> Exception:
    constraint = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
    if constraint == models.LIVE_DATABASE_INDEX:
        return database_taken(database)
    return name_taken(name) if constraint == models.LIVE_NAME_INDEX else error
