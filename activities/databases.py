"""Activities that create, rename and drop databases, under the fence and after asking the registry."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.compensation import Compensation
from activities.concurrency import ConcurrencyLimit
from activities.errors import as_application_error
from activities.final_backups import make_final_backup, require_final_backup
from activities.following import Following
from activities.heartbeats import heartbeats
from activities.job_owners import exchange_of, owner_of, replacement_of, trash_database, trash_job
from activities.provisioner import Provisioner, Wanted
from activities.snapshot_copies import make_snapshot
from databases import dropping, renaming, replacing, trash, trash_backup
from databases.errors import LOST, DatabaseFaultError, DisagreementError
from databases.lookup import has_database
from databases.ownership import KnownOwner, Owner
from databases.replacing import Exchange, Stage
from logs import fault_name
from metrics.job_phases import measured_job, phase
from registry.backups.records import proven_state
from registry.instances.job_store import Position
from registry.instances.jobs import InstanceJob
from registry.instances.status import AT_REST, InstanceStatus, Operation
from registry.instances.versions import VersionPurge
from registry.storage.models import DbInstance
from tenants.tenant import Tenant

_FINISH_SECONDS = 2
_WAIT_OVER_SECONDS = 5
"""A step that runs for so long has met neither a server that is away nor the lock of another session."""

_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TrashResult:
    """Whether there was a database to keep, and whether the job was recorded as done as well."""

    kept: bool
    finished: bool = False


@dataclass(frozen=True)
class ReplaceResult:
    """Whether the job was recorded as done as well, and which generation of the template the database is of.

    None if the generation is not known.
    """

    finished: bool = False
    template_generation: int | None = None


@dataclass(frozen=True)
class ProvisionResult:
    """The new database, its size in bytes, and whether the job was recorded as done as well.

    Also which generation of the template it is a copy of; None if that is not known.
    """

    database: str
    size_bytes: int | None
    finished: bool = False
    template_generation: int | None = None


class SupersededError(ApplicationError):
    """The instance has moved on to another job or attempt, or belongs to another mark now."""

    def __init__(self) -> None:
        super().__init__(
            "The instance has moved on to another job or attempt.", type="Superseded", non_retryable=True
        )


class JobCancelledError(ApplicationError):
    """A client has cancelled the job, whose workflow may not know it yet."""

    def __init__(self) -> None:
        super().__init__("The job was cancelled.", type="Cancelled", non_retryable=True)


class DatabaseActivities:
    """The middle step of every job, on the server that holds the ODS databases.

    An activity here also tries to record the outcome in the registry, which saves the workflow a step. If
    that fails, the workflow's own last step does it, or reports why it cannot be done.

    Args:
        tenant: the tenant whose databases these are.
        limit: bounds how many databases are worked on at once; verifying and recording are not counted.
        refill: requests a refill after a spare was claimed; without it, no spares are claimed.
    """

    def __init__(
        self, tenant: Tenant, limit: ConcurrencyLimit, refill: Callable[[], None] | None = None
    ) -> None:
        self._tenant = tenant
        self._limit = limit
        self._provisioner = Provisioner(tenant, refill)
        self._compensation = Compensation(tenant)

    @activity.defn
    async def provision(self, job: InstanceJob) -> ProvisionResult:
        """Clone the template or claim a spare, publish it under its name, and verify that it answers.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        following = Following()
        with as_application_error(), measured_job(job.operation):
            try:
                async with heartbeats(following.details):
                    return await self._provision(job, following)
            except SupersededError:
                # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
                if await self._tenant.jobs.holds(job, InstanceStatus.COMPLETED):
                    return ProvisionResult(job.database, size_bytes=None, finished=True)
                raise

    @activity.defn
    async def drop(self, job: InstanceJob) -> bool:
        """Drop the instance's database together with the sessions on it; true if `Deleted` was recorded.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        _require(Operation.DELETE, job)
        _, recorded = await self._delete(
            job,
            lambda session, owner: dropping.drop(
                session,
                owner,
                job.databases,
                job.number,
                published=job.published,
                before=partial(self._require_due, job),
            ),
            lambda _: self._tenant.jobs.finish_delete(job),
        )
        return recorded

    @activity.defn
    async def trash(self, job: InstanceJob) -> TrashResult:
        """Move the instance's database to the trash, and end the sessions on it.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        kept, recorded = await self._delete(
            job,
            lambda session, owner: trash.put(
                self._tenant.server,
                session,
                trash_job(job, owner),
                drop_invalid=True,
                published=job.published,
            ),
            lambda kept: self._tenant.jobs.finish_delete(job if kept else replace(job, trash_database=None)),
        )
        return TrashResult(kept is not False, recorded)

    @activity.defn
    async def detach(self, job: InstanceJob) -> bool:
        """Remove the mark of the instance's database, which stays; true if `Deleted` was recorded.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        server = self._tenant.server
        _, recorded = await self._delete(
            job,
            lambda session, owner: trash.let_go(
                server, session, owner, job.databases, published=job.published
            ),
            lambda _: self._tenant.jobs.finish_delete(job),
        )
        return recorded

    @activity.defn
    async def undelete(self, job: InstanceJob) -> None:
        """Give the database in the trash its name back, open.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        with as_application_error():
            async with heartbeats(), self._fenced(job) as (session, owner):
                server, kept, name = self._tenant.server, trash_database(job), job.final_database
                versions = await self._tenant.queries.versions_of(job.instance_id)
                known = {version.database_name: version.publication for version in versions}
                await trash.require_no_later(session, owner, kept, known)
                await trash.take_out(server, session, owner, kept, name, former=job.database)

    @activity.defn
    async def purge(self, job: InstanceJob) -> bool:
        """Drop the instance's database from the trash; true if that was recorded.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        _require(Operation.PURGE, job)
        _, recorded = await self._delete(
            job,
            lambda session, owner: trash.purge(
                session, owner, trash_database(job), before=partial(self._require_due, job)
            ),
            lambda dropped: self._tenant.jobs.finish_purge(job, dropped=dropped),
        )
        return recorded

    @activity.defn
    async def back_up_trash(self, job: InstanceJob) -> bool:
        """Store a backup of the instance's database in the trash, unless there is one of it as it is now.

        False if there is no database any more, so that there is none to drop either.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        _require(Operation.PURGE_AFTER_BACKUP, job)
        following = Following()
        with as_application_error():
            async with heartbeats(following.details), self._fenced(job) as (session, owner):
                report = partial(self._report, job, following)
                return await make_final_backup(self._tenant, session, job, owner, following, report)

    @activity.defn
    async def purge_backed_up(self, job: InstanceJob) -> bool:
        """Drop the instance's database from the trash as it was backed up; true if that was recorded.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        _require(Operation.PURGE_AFTER_BACKUP, job)

        async def purge(session: asyncpg.Connection, owner: KnownOwner) -> bool:
            backup = await self._tenant.backups.final_of(job)
            return await trash_backup.purge_backed_up(
                session,
                owner,
                trash_database(job),
                None if backup is None else proven_state(backup),
                partial(require_final_backup, self._tenant, job),
                partial(self._require_due, job),
            )

        _, recorded = await self._delete(
            job, purge, lambda dropped: self._tenant.jobs.finish_purge(job, dropped=dropped)
        )
        return recorded

    @activity.defn
    async def rename(self, job: InstanceJob) -> None:
        """Give the instance's database its new name; the sessions on it are ended.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        with as_application_error():
            async with heartbeats(), self._fenced(job) as (session, owner):
                await renaming.rename(self._tenant.server, session, owner, job.database, job.final_database)

    @activity.defn
    async def snapshot(self, job: InstanceJob) -> bool:
        """Make a read-only copy of the instance's database; true if the snapshot was recorded as well.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        following = Following()
        with as_application_error():
            try:
                async with heartbeats(following.details), self._fenced(job) as (session, owner):
                    report = partial(self._report, job, following)
                    await make_snapshot(self._tenant.snapshots, session, job, owner, following, report)
            except SupersededError:
                if await self._tenant.snapshots.store.is_done(job):
                    return True
                raise
        return await _try_to_record(job, self._tenant.snapshots.finish(job))

    @activity.defn
    async def reset(self, job: InstanceJob) -> ReplaceResult:
        """Make another database beside the instance's, then exchange both: the old one goes to the trash.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        return await self._replace(job, self._make_replacement)

    @activity.defn
    async def undo_reset(self, job: InstanceJob) -> ReplaceResult:
        """Exchange the instance's database with the one in the trash that a reset has replaced.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        return await self._replace(job)

    @activity.defn
    async def drop_replaced(self, job: InstanceJob) -> bool:
        """Drop the database that a reset has replaced, if it is not to be kept; true if it was dropped.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        with as_application_error():
            claimed = await self._tenant.versions.claim_replaced(job)
        for purge in claimed:
            await self.purge_version(purge)
        return bool(claimed)

    @activity.defn
    async def purge_version(self, purge: VersionPurge) -> None:
        """Drop a database that an instance had before a reset from the trash.

        Not while the instance is in use by the registry, and its own database is gone: the version is then
        all that is left of it.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        owner = Owner(
            *(purge.tenant, purge.ods_instance_id, "", purge.mark, purge.number, purge.attempt),
            installation=purge.installation,
            database_mark=purge.database_mark,
        )
        with as_application_error():
            async with (
                heartbeats(),
                self._limit.slot(),
                self._tenant.server.fenced(owner, before_waiting=leave_to_job) as session,
            ):
                await self._tenant.installation.require_confirmed(session)
                instance = await self._tenant.versions.instance_of(purge)
                if instance is None:
                    return
                if instance.is_live:
                    await _require_own(session, owner, instance)
                known = owner.knowing(instance.known_requests)
                before = partial(self._require_version, purge)
                try:
                    dropped = await trash.purge(session, known, purge.database, replaced=True, before=before)
                except SupersededError:
                    return
            await self._tenant.versions.finish_purge(purge, dropped=dropped)

    async def _require_version(self, purge: VersionPurge) -> None:
        """Check once more that a version is to be dropped: its instance may be protected, or coming back.

        Raises:
            SupersededError: it is not, any more.
        """
        if await self._tenant.versions.instance_of(purge) is None:
            raise SupersededError

    @activity.defn(name="discard")
    async def compensate(self, job: InstanceJob) -> bool | None:
        """Undo what a job that has ended has left, as `after_failure` says; no published database is dropped.

        True if the create has failed after it had published the database: the instance is `Completed` now.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        with as_application_error():
            ended = partial(self._require_ended, job)
            async with heartbeats(), self._fence(job, before_waiting=ended) as session:
                return await self._compensation.undo(session, job, await self._require_ended(job))

    async def _delete(
        self,
        job: InstanceJob,
        work: Callable[[asyncpg.Connection, KnownOwner], Awaitable[_Result]],
        record: Callable[[_Result], Awaitable[bool]],
    ) -> tuple[_Result | None, bool]:
        """Do the work of a delete behind the fence, then record it, unless an earlier try has done both.

        Returns what the work tells, which is not known of an earlier try, and whether it is recorded.

        Args:
            job: a delete, of any kind.
            work: what is done to the database of this owner, on the fenced session.
            record: records that, and what the work tells.

        Raises:
            ApplicationError: of type `Outage`, `Superseded`, or of the type of the fault.
        """
        with as_application_error():
            try:
                async with heartbeats(), self._fenced(job) as (session, owner):
                    result = await work(session, owner)
            except SupersededError:
                # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
                if await self._tenant.jobs.is_done(job):
                    return None, True
                raise
        return result, await _try_to_record(job, record(result))

    async def _replace(
        self,
        job: InstanceJob,
        make: Callable[[asyncpg.Connection, InstanceJob, Exchange, Following], Awaitable[None]] | None = None,
    ) -> ReplaceResult:
        following = Following()
        with as_application_error(), measured_job(job.operation):
            try:
                async with heartbeats(following.details), self._fenced(job) as (session, owner):
                    exchange = exchange_of(job, owner)
                    if make is not None and await replacing.stage(session, exchange) is Stage.NOTHING:
                        await replacing.require_current(session, exchange)
                        await make(session, job, exchange, following)
                        await self._require_due(job)
                    exchanged = await replacing.take_place(self._tenant.server, session, exchange)
            except SupersededError:
                # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
                if await self._tenant.jobs.is_replaced(job):
                    return ReplaceResult(finished=True)
                raise
        generation = exchanged.template_generation
        done = replace(job, template_generation=generation)
        return ReplaceResult(
            await _try_to_record(job, self._tenant.jobs.finish_replacement(done)), generation
        )

    async def _make_replacement(
        self, session: asyncpg.Connection, job: InstanceJob, exchange: Exchange, following: Following
    ) -> None:
        replacement = replacement_of(job)
        wanted = Wanted(exchange.successor, exchange.other, replacement.template, replacement.origin)
        report = partial(self._report, job, following)
        database = await self._provisioner.make(session, wanted, following, report)
        await self._provisioner.verify(database, exchange.other)
        self._provisioner.replace_claimed(database)

    async def _provision(self, job: InstanceJob, following: Following) -> ProvisionResult:
        async with self._fenced(job) as (session, owner):
            wanted = Wanted(owner, job.database, job.template, job.origin)
            report = partial(self._report, job, following)
            database = await self._provisioner.make(session, wanted, following, report)
        await self._provisioner.verify(database, job.database)
        connection_string = self._tenant.connection_strings.encrypted(job.database)
        generation = database.template_generation
        done = replace(job, template_generation=generation)
        finished = await _try_to_record(job, self._tenant.jobs.finish_create(done, connection_string))
        self._provisioner.replace_claimed(database)  # only now: the client waits until that is recorded
        return ProvisionResult(job.database, database.size_bytes, finished, generation)

    async def _report(self, job: InstanceJob, following: Following) -> None:
        with suppress(*LOST, SQLAlchemyError, asyncpg.PostgresError):  # it is told again in a second
            await self._tenant.jobs.record_progress(job, following.percent, following.eta_seconds)

    @asynccontextmanager
    async def _fenced(self, job: InstanceJob) -> AsyncIterator[tuple[asyncpg.Connection, KnownOwner]]:
        """The fence of the job's instance, while the registry has this attempt of the job in progress.

        And the instance, with the requests that the registry knows by then.

        The registry is asked while the fence is held: from then on, another attempt that works on the
        instance's databases must first end this session. It is also asked before another attempt's fence is
        waited for, so that an attempt that comes too late does not end the session of the current one.

        Raises:
            SupersededError: the instance has moved on.
        """
        async with self._fence(job, before_waiting=partial(self._require_due, job)) as session:
            position = await self._require_due(job)
            async with self._end_wait_later(job) if position.waits else nullcontext():
                yield session, owner_of(job).knowing(position.requests)

    @asynccontextmanager
    async def _fence(
        self, job: InstanceJob, before_waiting: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[asyncpg.Connection]:
        """The fence of the job's instance, within the limit of databases worked on at once.

        Raises:
            InstallationNotConfirmedError: this installation may not change anything on the server.
        """
        fence = self._tenant.server.fenced(owner_of(job), before_waiting=before_waiting)
        async with self._limit.slot(), fence as session:
            await self._tenant.installation.require_confirmed(session)
            yield session

    async def _require_due(self, job: InstanceJob) -> Position:
        """Where the instance is, which is still the job's.

        Temporal tells an activity within a heartbeat that it is cancelled; the registry knows it at once.

        Raises:
            SupersededError: the instance has moved on.
            JobCancelledError: a client has cancelled the job.
        """
        position = await self._tenant.jobs.position(job)
        if position is None or position.status != InstanceStatus.IN_PROGRESS:
            raise SupersededError
        if position.is_cancelled:
            raise JobCancelledError
        return position

    @asynccontextmanager
    async def _end_wait_later(self, job: InstanceJob) -> AsyncIterator[None]:
        """Record that the job waits no longer, once its step has run for `_WAIT_OVER_SECONDS`."""
        ending = asyncio.create_task(self._end_wait(job))
        try:
            yield
        finally:
            ending.cancel()
            await asyncio.wait([ending])

    async def _end_wait(self, job: InstanceJob) -> None:
        await asyncio.sleep(_WAIT_OVER_SECONDS)
        await self._tenant.jobs.end_wait(job)

    async def _require_ended(self, job: InstanceJob) -> Position:
        position = await self._tenant.jobs.position(job)
        if position is None or position.status not in AT_REST:
            raise SupersededError
        return position


async def _try_to_record(job: InstanceJob, write: Awaitable[bool]) -> bool:
    try:
        with measured_job(job.operation), phase("record"):
            return await asyncio.wait_for(write, _FINISH_SECONDS)
    except Exception as error:  # noqa: BLE001 - the workflow's last step tries again and reports it
        _logger.info("The outcome is left to the workflow's last step: %s", fault_name(error))
        return False


def _require(operation: Operation, job: InstanceJob) -> None:
    """Drop nothing for a job that has not been requested to drop."""
    if job.operation is not operation:
        raise SupersededError


async def leave_to_job() -> None:
    """Do not end the session of a job that works on the instance, as waiting for its fence would.

    Raises:
        DatabaseFaultError: always.
    """
    raise DatabaseFaultError("A job works on the instance.", retryable=True)


async def _require_own(session: asyncpg.Connection, version: Owner, instance: DbInstance) -> None:
    """Refuse to drop a version of an instance whose own database is gone.

    Raises:
        DisagreementError: no database carries the mark of its own.
        DatabaseFaultError: the server is away, …
    """
    if not await has_database(session, replace(version, database_mark=instance.database_mark_text)):
        raise DisagreementError(
            instance.database_name,
            f"The database '{instance.database_name}' of the instance does not exist, so what it had before"
            f" a reset is not dropped. `ods instance adopt {instance.id} --database NAME` brings that back;"
            " when an instance in the trash is purged, it is dropped.",
        )
