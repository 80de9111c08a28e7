"""The registry: every state change of an instance, each one guarded transaction.

An instance row is the outbox of its job. What a person asks for is committed here first; a workflow then
begins, finishes or fails it. Each of those writes is guarded by the instance's mark, by the job's fencing
token (operation, number and attempt) and by the statuses the step may start from, so a late or repeated
attempt, or one at another instance that had the same id before the registry was restored, changes nothing.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Interval,
    Select,
    Update,
    Uuid,
    and_,
    any_,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from registry.installation import InstallationStore
from registry.instances import status
from registry.instances.jobs import ExecutionPolicy, InstanceJob, JobWait
from registry.instances.naming import database_name
from registry.instances.ods_routing import (
    change_routing,
    end_routing,
    relations_reason,
    rename_obstacle,
    start_routing,
)
from registry.instances.relations import relations_of
from registry.instances.reservations import (
    database_is_taken,
    database_taken,
    lock_name,
    name_taken,
    require_free,
    reserved_id,
)
from registry.instances.status import InstanceStatus, JobStatus, Operation, Step, Template, after_failure
from registry.storage import models
from registry.storage.engine import single_statements
from registry.storage.errors import InstanceNotFoundError, RefusedError
from registry.storage.models import DbInstance, Job
from settings import DEFAULT_TENANT

_NEXT_STEPS = {
    InstanceStatus.PENDING: "Its job is about to start; wait until it is Completed or Error.",
    InstanceStatus.IN_PROGRESS: "A job is running; ask again when it has ended.",
    InstanceStatus.COMPLETED: "Nothing has failed; delete the instance if it is no longer needed.",
    InstanceStatus.ERROR: "Retry the job that failed, or delete the instance.",
    InstanceStatus.PENDING_DELETE: "Its deletion is about to start; wait until it is Deleted.",
    InstanceStatus.DELETE_FAILED: "Retry the deletion.",
}


_RETRIES_AFTER_OUTAGES = 5
"""How often a delete that an outage ended is tried again without a person."""
_WAITS_FOR_NOTHING: dict[str, Any] = {"waiting_for": None, "waiting_since": None, "waiting_until": None}


@dataclass(frozen=True)
class BeginResult:
    """Whether the job holds the instance now, and, if it may not go on all the same, why."""

    held: bool
    refusal: str | None = None


@dataclass(frozen=True)
class Position:
    """Where an instance is at an attempt of a job: its status, and whether the job is told to be waiting."""

    status: InstanceStatus
    waits: bool


@dataclass(frozen=True)
class DatabaseName:
    """The name of an instance's database, and the encrypted string that routes the ODS/API to it."""

    name: str
    connection_string: str


@dataclass(frozen=True)
class LostInstance:
    """An instance without a row, as the mark on its database describes it."""

    name: str
    template: Template
    ods_instance_id: int
    mark: str
    number: int
    attempt: int


@dataclass(frozen=True)
class Requested:
    """An instance as a request left it, and the job that carries the request out."""

    instance: DbInstance
    job: InstanceJob


class InstanceStore:
    """The state changes of one tenant's instances.

    Every change is one statement or one transaction. Connection faults come through as SQLAlchemy's and
    asyncpg's errors. While the registry is a copy that no operator has confirmed, every request and every
    beginning raises InstallationNotConfirmedError.
    """

    def __init__(self, engine: AsyncEngine, policy: ExecutionPolicy, tenant: str = DEFAULT_TENANT) -> None:
        self._transaction = async_sessionmaker(engine, expire_on_commit=False).begin
        self._single_statements = single_statements(engine)
        self._policy = policy
        self._tenant = tenant
        self.installation = InstallationStore(engine)

    async def reserve(self, name: str, template: Template) -> Requested:
        """Reserve an OdsInstanceId and record that `name` shall be created.

        Raises:
            NameTakenError: a live instance or an ODS instance has the name, or the database name.
        """
        await self.installation.require_confirmed()
        database = database_name(name, template)
        try:
            async with self._transaction() as session:
                await require_free(session, name, database)
                row = insert(DbInstance).values(
                    name=name,
                    database_template=template,
                    database_name=database,
                    ods_instance_id=await reserved_id(session),
                    status=InstanceStatus.PENDING,
                    operation=Operation.CREATE,
                    job_number=1,
                    last_refreshed=models.UTC_NOW,
                    last_modified=models.UTC_NOW,
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
        await self.installation.require_confirmed()
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.REQUEST_DELETE.sources, "deleted")
            if instance.published_at and (relations := await relations_of(session, instance.ods_instance_id)):
                raise RefusedError(
                    instance.status,
                    relations_reason(relations),
                    f"Remove the {', '.join(relations)} that refer to it, then delete it.",
                )
            return await self.request_delete_in(session, instance)

    async def request_delete_in(self, session: AsyncSession, instance: DbInstance) -> Requested:
        """Record, in the caller's transaction, that `instance` shall be deleted; the caller has locked it.

        The names that a failed rename has reserved stay: the database may have the new one.
        """
        return await self._next_job(session, instance, Operation.DELETE, status.REQUEST_DELETE)

    async def request_rename(self, instance_id: int, name: str) -> Requested:
        """Reserve `name` and record, as a new job, that the instance shall have it.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: a job is under way, or the instance was never created.
            NameTakenError: another live instance or ODS instance has the name, or the database name.
        """
        await self.installation.require_confirmed()
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.REQUEST_RENAME.sources, "renamed")
            _require_created(instance, "renamed")
            database = database_name(name, Template(instance.database_template))
            await require_free(session, name, database, excluding=instance)
            instance.new_name, instance.new_database_name = name, database
            return await self._next_job(session, instance, Operation.RENAME, status.REQUEST_RENAME)

    async def request_retry(self, instance_id: int) -> Requested:
        """Put a failed job back to waiting: the same job, one attempt later.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: the instance's last job has not failed.
        """
        await self.installation.require_confirmed()
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            step = status.RETRY[Operation(instance.operation)]
            _require(instance, step.sources, "retried")
            instance.outages = 0
            _advance(instance, step)
            requested = await self._requested(session, instance)
            await session.execute(_job_record(requested.job, step.job))
            return requested

    @asynccontextmanager
    async def adopting(
        self, instance_id: int, database: DatabaseName | None = None, *, marked: bool = False
    ) -> AsyncIterator[DbInstance]:
        """The instance that shall get a database; no job of it can begin while the body runs.

        Args:
            instance_id: the instance.
            database: what its database is called from now on, if the registry has it wrong.
            marked: whether that database carries the instance's mark, so that the instance was created.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: it has a job under way, or never had a database.
            NameTakenError: another instance has a database of that name.
        """
        await self.installation.require_confirmed()
        async with self._transaction() as session:
            instance = await _locked(session, instance_id)
            _require(instance, status.ADOPTABLE, "given a database")
            if not marked:
                _require_created(instance, "given a database")
            if database is not None:  # before the database is marked: it may be another instance's
                await _call_database(session, instance, database)
            yield instance

    async def restore_lost(self, lost: LostInstance, database: DatabaseName) -> DbInstance:
        """Record a completed instance that the registry has lost, as its database describes it.

        Raises:
            NameTakenError: an instance or ODS instance has its name, its OdsInstanceId or its mark.
        """
        await self.installation.require_confirmed()
        try:
            async with self._transaction() as session:
                await require_free(session, lost.name, database.name)
                instance = DbInstance(
                    name=lost.name,
                    database_template=lost.template,
                    database_name=database.name,
                    ods_instance_id=lost.ods_instance_id,
                    ods_instance_name=lost.name,
                    status=InstanceStatus.COMPLETED,
                    operation=Operation.CREATE,
                    job_number=lost.number,
                    attempt=lost.attempt,
                    mark=UUID(lost.mark),
                    published_at=models.UTC_NOW,
                    last_refreshed=models.UTC_NOW,
                    last_modified=models.UTC_NOW,
                )
                session.add(instance)
                requested = await self._requested(session, instance)
                await start_routing(session, requested.job, database.connection_string)
                return requested.instance
        except IntegrityError as error:
            raise _name_conflict(error, lost.name, database.name) from None

    async def begin(self, job: InstanceJob, refusal: str | None = None) -> BeginResult:
        """Take the instance for this attempt of `job`; for a delete, also stop the routing to its database.

        A rename that its ODS instance could not follow is refused.

        Safe to repeat. `held` is false if the instance has moved on, and nothing was changed then. With a
        `refusal` the instance is taken only for the job to fail with it.

        Raises:
            InstallationNotConfirmedError: the registry was copied or moved.
        """
        installation = await self.installation.require_confirmed()
        if job.installation not in {None, installation.id}:
            return BeginResult(held=False)
        step = status.BEGIN[job.operation]
        match job.operation:
            case Operation.CREATE:
                async with self._single_statements() as session:
                    return BeginResult(await _begun(session, job, step), refusal)
            case Operation.DELETE:
                async with self._transaction() as session:
                    held = await _begun(session, job, step)
                    if held and job.published:
                        refusal = refusal or await end_routing(session, job.ods_instance_id)
                    return BeginResult(held, refusal)
            case Operation.RENAME:
                async with self._transaction() as session:
                    held = await _begun(session, job, step, DbInstance.new_name == job.new_name)
                    return BeginResult(
                        held, refusal or (await rename_obstacle(session, job) if held else None)
                    )
            case _:
                assert_never(job.operation)

    async def is_due(self, job: InstanceJob) -> bool:
        """Whether the instance waits for this very attempt of `job` to begin."""
        async with self._single_statements() as session:
            return await _is_at(
                session, replace(job, attempt=job.attempt - 1), status.RELEASE[job.operation].target
            )

    async def holds(self, job: InstanceJob, state: InstanceStatus) -> bool:
        """Whether the instance is at this very attempt of `job`, in `state`."""
        async with self._single_statements() as session:
            return await _is_at(session, job, state)

    async def position(self, job: InstanceJob) -> Position | None:
        """Where the instance is at this very attempt of `job`; None if it has moved on."""
        query = (
            select(DbInstance.status, Job.waiting_for.is_not(None))
            .outerjoin(Job, Job.job_id == job.job_id)
            .where(*_token(job, job.attempt))
        )
        async with self._single_statements() as session:
            row = (await session.execute(query)).one_or_none()
        return None if row is None else Position(InstanceStatus(row[0]), bool(row[1]))

    async def record_wait(self, wait: JobWait) -> None:
        """Record what a running job waits for. Nothing is recorded of one that has ended."""
        running = (Job.job_id == wait.job.job_id, Job.status == JobStatus.IN_PROGRESS)
        values = {
            "waiting_for": wait.reason,
            "waiting_since": models.UTC_NOW - _seconds(wait.since_seconds),
            "waiting_until": models.UTC_NOW + _seconds(wait.until_seconds),
        }
        async with self._single_statements() as session:
            await session.execute(update(Job).where(*running).values(**values))

    async def end_wait(self, job: InstanceJob) -> None:
        """Record that a running job waits for nothing any more."""
        async with self._single_statements() as session:
            await session.execute(update(Job).where(Job.job_id == job.job_id).values(**_WAITS_FOR_NOTHING))

    async def finish_create(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed` and route the ODS/API to its database.

        Safe to repeat. Returns whether the instance was the job's to finish.

        Raises:
            NameTakenError: an ODS instance took the name or the reserved id in the meantime.
        """
        return await self._complete(job, status.FINISH[Operation.CREATE], connection_string, job.attempt)

    async def follow_database(self, job: InstanceJob, connection_string: str, attempt: int) -> bool:
        """Record as `Completed` an instance whose create has failed, but whose database was published.

        Args:
            job: the create, at the attempt that failed.
            connection_string: what routes the ODS/API to the database, encrypted.
            attempt: the attempt that published it; a registry that was restored may know only earlier ones.

        Safe to repeat. Returns whether the instance was at this attempt of the job.

        Raises:
            NameTakenError: an ODS instance has the name or the reserved id.
        """
        return await self._complete(job, status.FOLLOW_DATABASE, connection_string, max(attempt, job.attempt))

    async def _complete(self, job: InstanceJob, step: Step, connection_string: str, attempt: int) -> bool:
        if job.operation != Operation.CREATE:
            return False
        made = {
            "ods_instance_name": job.name,
            "published_at": models.UTC_NOW,
            "error_message": None,
            "attempt": attempt,
        }
        try:
            async with self._transaction() as session:
                took = await _took(session, job, step, made)
                if took:
                    await start_routing(session, job, connection_string)
                return took or await _is_at(session, job, step.target)
        except IntegrityError:
            raise name_taken(job.name) from None

    async def finish_rename(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed` under its new names, and route the ODS/API to its database.

        Safe to repeat. Returns whether the instance was the job's to finish.

        Raises:
            NameTakenError: an ODS instance took the name in the meantime.
        """
        if job.operation != Operation.RENAME:
            return False
        step = status.FINISH[Operation.RENAME]
        names = {
            "name": job.final_name,
            "ods_instance_name": job.final_name,
            "database_name": job.final_database,
            "new_name": None,
            "new_database_name": None,
        }
        try:
            async with self._transaction() as session:
                took = await _took(session, job, step, names)
                if took:
                    await change_routing(session, job, connection_string)
                return took or await _is_at(session, job, step.target)
        except IntegrityError:
            raise name_taken(job.final_name) from None

    async def finish_delete(self, job: InstanceJob) -> bool:
        """Record the instance as `Deleted`. Safe to repeat; returns whether it was the job's to finish."""
        if job.operation != Operation.DELETE:
            return False
        freed = {"new_name": None, "new_database_name": None}
        async with self._single_statements() as session:
            return await _move(session, job, status.FINISH[Operation.DELETE], **freed)

    async def fail(self, job: InstanceJob, reason: str, *, outage: bool = False) -> bool:
        """Record that `job` gave up, and why; with `outage`, because something was away for too long.

        Safe to repeat; returns whether it was the job's to fail.
        """
        outages = DbInstance.outages + 1 if outage else 0
        async with self._single_statements() as session:
            step = status.FAIL[job.operation]
            return await _move(session, job, step, error_message=reason, outages=outages)

    async def explain_failure(self, job: InstanceJob, reason: str) -> None:
        """Record another reason why `job` has failed, if the instance is still at that."""
        failed = DbInstance.status == status.FAIL[job.operation].target
        told = (
            update(DbInstance)
            .where(*_token(job, job.attempt), failed)
            .values(error_message=reason)
            .returning(DbInstance.id)
            .cte("told")
        )
        recorded = update(Job).where(Job.job_id == job.job_id, exists(select(told.c.id)))
        async with self._single_statements() as session:
            await session.execute(recorded.values(error_message=reason).add_cte(told))

    async def waiting_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Jobs of rows in `Pending` and `Pending_Delete` with ids above `after`, by id."""
        waiting = DbInstance.status.in_((InstanceStatus.PENDING, InstanceStatus.PENDING_DELETE))
        return [self._job(row) for row in await self._page(waiting, after, limit)]

    async def running_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Jobs of rows in `InProgress` with ids above `after`, by id, at the attempt that is under way."""
        running = DbInstance.status == InstanceStatus.IN_PROGRESS
        return [self._job(row, row.attempt) for row in await self._page(running, after, limit)]

    async def unfinished_deletes(self, half_dropped: Mapping[str, str]) -> Sequence[InstanceJob]:
        """Deletes that have failed and are tried again without a person, at the attempt that failed.

        Those that an outage ended, a bounded number of times; and those of the instances whose databases a
        DROP has begun to remove: `half_dropped` has their names, with their marks.
        """
        query = select(DbInstance).where(
            DbInstance.status == InstanceStatus.DELETE_FAILED,
            or_(
                and_(DbInstance.outages > 0, DbInstance.outages <= _RETRIES_AFTER_OUTAGES),
                and_(
                    _has_mark(half_dropped.values()),
                    or_(
                        DbInstance.database_name.in_(half_dropped),
                        DbInstance.new_database_name.in_(half_dropped),
                    ),
                ),
            ),
        )
        return await self._jobs_of(query)

    async def release(self, job: InstanceJob) -> InstanceJob | None:
        """Put a job back to waiting that has no workflow any more, or a delete that is not finished.

        Returns the attempt that is due then.

        Safe to repeat. None if the instance has moved on, and nothing was changed then.
        """
        async with self._single_statements() as session:
            released = await _move(session, job, status.RELEASE[job.operation])
            return replace(job, attempt=job.attempt + 1) if released else None

    async def failed_jobs(self, marks: Collection[str]) -> Sequence[InstanceJob]:
        """Jobs that ended in `Error`, of the instances with these marks, at the attempt that failed."""
        failed = DbInstance.status == InstanceStatus.ERROR
        return await self._jobs_of(select(DbInstance).where(failed, _has_mark(marks)))

    async def ended_jobs(self, marks: Collection[str]) -> Sequence[InstanceJob]:
        """The last jobs of the instances with these marks that no job works on, at their last attempt."""
        ended = DbInstance.status.in_(status.AT_REST)
        return await self._jobs_of(select(DbInstance).where(ended, _has_mark(marks)))

    async def _jobs_of(self, query: Select[DbInstance]) -> Sequence[InstanceJob]:
        await self.installation.state()
        async with self._single_statements() as session:
            rows = await session.scalars(query.order_by(DbInstance.id))
            return [self._job(row, row.attempt) for row in rows]

    async def _page(self, condition: ColumnElement[bool], after: int, limit: int) -> Sequence[DbInstance]:
        await self.installation.require_confirmed()
        query = select(DbInstance).where(condition, DbInstance.id > after)
        async with self._single_statements() as session:
            return (await session.scalars(query.order_by(DbInstance.id).limit(limit))).all()

    async def _requested(self, session: AsyncSession, instance: DbInstance) -> Requested:
        await session.flush()
        await session.refresh(instance)
        return Requested(instance, self._job(instance))

    async def _next_job(
        self, session: AsyncSession, instance: DbInstance, operation: Operation, step: Step
    ) -> Requested:
        if operation == Operation.DELETE and instance.operation != Operation.DELETE:
            # Not at a second delete: deletes publish nothing, and their numbers would pass for later ones.
            instance.known_number, instance.known_attempt = instance.job_number, instance.attempt
        instance.operation = operation
        instance.job_number += 1
        instance.attempt = 0
        instance.outages = 0
        _advance(instance, step)
        return self._with_job(session, await self._requested(session, instance))

    def _with_job(self, session: AsyncSession, requested: Requested) -> Requested:
        """Record the job that is new with the request."""
        job = Job(
            job_id=requested.job.job_id,
            status=JobStatus.PENDING,
            created_at=models.UTC_NOW,
            instance_id=requested.instance.id,
            operation=requested.job.operation,
            database_template=requested.job.template,
        )
        session.add(job)
        return requested

    def _job(self, instance: DbInstance, attempt: int | None = None) -> InstanceJob:
        """An attempt at the instance's job: by default the next, which is due if the instance waits."""
        return InstanceJob(
            tenant=self._tenant,
            operation=Operation(instance.operation),
            instance_id=instance.id,
            ods_instance_id=instance.ods_instance_id,
            number=instance.job_number,
            attempt=instance.attempt + 1 if attempt is None else attempt,
            name=instance.name,
            template=Template(instance.database_template),
            database=instance.database_name,
            mark=str(instance.mark),
            published=instance.published_at is not None,
            policy=self._policy,
            new_name=instance.new_name,
            new_database=instance.new_database_name,
            installation=self.installation.known_id,
            known_number=instance.known_number,
            known_attempt=instance.known_attempt,
        )


async def _call_database(session: AsyncSession, instance: DbInstance, database: DatabaseName) -> None:
    """Record that the instance's database has another name, and route the ODS/API there."""
    await lock_name(session, database.name)
    if await database_is_taken(session, database.name, instance):
        raise database_taken(database.name)
    instance.database_name = database.name
    instance.last_modified = models.UTC_NOW
    await session.execute(
        update(models.OdsInstance)
        .where(models.OdsInstance.ods_instance_id == instance.ods_instance_id)
        .values(connection_string=database.connection_string)
    )


def _token(job: InstanceJob, attempt: int) -> list[ColumnElement[bool]]:
    """The fence of every write by a job: the row is at this job and this attempt."""
    return [
        DbInstance.id == job.instance_id,
        DbInstance.mark == UUID(job.mark),
        DbInstance.operation == job.operation,
        DbInstance.job_number == job.number,
        DbInstance.attempt == attempt,
    ]


async def _begun(session: AsyncSession, job: InstanceJob, step: Step, *also: ColumnElement[bool]) -> bool:
    """Begin this attempt after the one before it; true as well if that was done before.

    Not if another database was handed over to the instance since the job was read: it would work on the old.
    """
    token = [*_token(job, job.attempt - 1), DbInstance.database_name == job.database, *also]
    took = await _took(session, job, step, {"error_message": None}, token)
    return took or await _is_at(session, job, step.target)


async def _move(session: AsyncSession, job: InstanceJob, step: Step, **values: object) -> bool:
    """Take `step` if the row allows it; true as well if this attempt of the job took it before."""
    took = await _took(session, job, step, values)
    return took or await _is_at(session, job, step.target)


async def _took(
    session: AsyncSession,
    job: InstanceJob,
    step: Step,
    values: Mapping[str, object],
    token: Collection[ColumnElement[bool]] = (),
) -> bool:
    """Take `step` if the row allows it now, and record the same of the job: one statement."""
    moved = (
        update(DbInstance)
        .where(*(token or _token(job, job.attempt)), DbInstance.status.in_(step.sources))
        .values({"status": step.target, "attempt": job.attempt, "last_modified": models.UTC_NOW, **values})
        .returning(DbInstance.id)
        .cte("moved")
    )
    recorded = _job_record(job, step.job, values.get("error_message")).where(exists(select(moved.c.id)))
    return await session.scalar(select(moved.c.id).add_cte(recorded.cte("recorded"))) is not None


def _has_mark(marks: Collection[str]) -> ColumnElement[bool]:
    return DbInstance.mark == any_(literal([UUID(mark) for mark in marks], ARRAY(Uuid)))


def _seconds(seconds: float) -> ColumnElement[timedelta]:
    return literal(timedelta(seconds=seconds), Interval)


async def _is_at(session: AsyncSession, job: InstanceJob, target: InstanceStatus) -> bool:
    query = select(DbInstance.id).where(*_token(job, job.attempt), DbInstance.status == target)
    return await session.scalar(query) is not None


def _job_record(job: InstanceJob, reached: JobStatus, error: object = None) -> Update:
    """The statement that records how far `job` is."""
    ended = reached in {JobStatus.COMPLETED, JobStatus.ERROR}
    values = {
        "status": reached,
        "error_message": error,
        "finished_at": models.UTC_NOW if ended else None,
        **_WAITS_FOR_NOTHING,
    }
    if reached is JobStatus.IN_PROGRESS:
        values["startedat"] = models.UTC_NOW
    return update(Job).where(Job.job_id == job.job_id).values(**values)


async def _locked(session: AsyncSession, instance_id: int) -> DbInstance:
    instance = await session.get(DbInstance, instance_id, with_for_update=True)
    if instance is None or instance.status == InstanceStatus.DELETED:
        raise InstanceNotFoundError(instance_id)
    return instance


def _require(instance: DbInstance, states: Collection[InstanceStatus], verb: str) -> None:
    if instance.status not in states:
        raise _refusal(instance, verb)


def _require_created(instance: DbInstance, verb: str) -> None:
    """Refuse it to an instance whose job failed in a way that leaves it without a usable database."""
    if instance.status == InstanceStatus.ERROR and not after_failure(Operation(instance.operation)).usable:
        raise _refusal(instance, verb)


def _refusal(instance: DbInstance, verb: str) -> RefusedError:
    current = InstanceStatus(instance.status)
    reason = f"An instance in state {current} cannot be {verb}."
    return RefusedError(current, reason, _NEXT_STEPS[current])


def _advance(instance: DbInstance, step: Step) -> None:
    instance.status = step.target
    instance.error_message = None
    instance.last_modified = models.UTC_NOW


def _name_conflict(error: IntegrityError, name: str, database: str) -> Exception:
    constraint = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
    if constraint == models.LIVE_DATABASE_INDEX:
        return database_taken(database)
    return name_taken(name) if constraint == models.LIVE_NAME_INDEX else error
