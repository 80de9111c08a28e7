"""Activities that create, rename and drop databases, under the fence and after asking the registry."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities.compensation import Compensation
from activities.concurrency import ConcurrencyLimit
from activities.errors import SupersededError, step
from activities.final_backups import make_final_backup, require_final_backup
from activities.following import FencedWork, Following, heartbeats
from activities.job_fence import DroppingToTheEnd, JobFence
from activities.provisioner import Provisioner, Wanted
from ods.backups.copying import copy_contents
from ods.backups.snapshots import Database
from ods.databases import activating, adoption, dropping, replacing, retiring, trash_backup
from ods.databases.errors import LOST
from ods.databases.ownership import KnownOwner
from ods.databases.replacing import Exchange, Stage
from ods.model.arguments import DROP_AT_ONCE, NO_ARGUMENTS, Arguments, DeleteArguments, PurgeArguments
from ods.model.operations import InstanceStatus, Operation
from ods.observability.logs import fault_name
from ods.observability.metrics.job_phases import measured_job, phase
from ods.registry.backups.records import proven_state
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.job_owners import exchange_of, replacement_of, trash_job
from ods.tenants.tenant import Tenant

_FINISH_SECONDS = 2
_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Before: TypeAlias = Callable[[], Awaitable[object]]
"""As for `ods.databases.dropping.drop_found`."""


@dataclass(frozen=True)
class TrashResult:
    """Whether there was a database to keep, and whether the end of the job was recorded as well."""

    kept: bool
    finished: bool = False


@dataclass(frozen=True)
class ReplaceResult:
    """Whether the end of the job was recorded as well, and the database's template generation, if known."""

    finished: bool = False
    template_generation: int | None = None


@dataclass(frozen=True)
class ProvisionResult:
    """The new database, its size, whether the end of the job was recorded, and its template generation."""

    database: str
    size_bytes: int | None
    finished: bool = False
    template_generation: int | None = None


class DatabaseActivities:
    """The middle step of every job, on the server that holds the ODS databases.

    Most activities here also try to record the end of the job, which saves the workflow a step. If they
    cannot, the workflow's last step does it, or reports why not.

    `limit` does not count verifying and recording. Without `refill`, no spares are claimed.
    """

    def __init__(
        self, tenant: Tenant, limit: ConcurrencyLimit, refill: Callable[[], None] | None = None
    ) -> None:
        self._tenant = tenant
        self._fence = JobFence(tenant, limit)
        self._provisioner = Provisioner(tenant, refill)
        self._compensation = Compensation(tenant)

    @step
    async def provision(self, job: InstanceJob) -> ProvisionResult:
        """Make the database, publish it under its name, and verify that it answers."""
        following = Following()
        with measured_job(job.kind.name):
            try:
                async with heartbeats(following.details):
                    return await self._provision(job, following)
            except SupersededError:
                # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
                if await self._tenant.jobs.holds(job, InstanceStatus.COMPLETED):
                    return ProvisionResult(job.database, size_bytes=None, finished=True)
                raise

    @step
    async def drop(self, job: InstanceJob) -> bool:
        """Drop the instance's database together with the sessions on it; true if `Deleted` was recorded."""
        _require(job, Operation.DELETE, DROP_AT_ONCE)
        return await self._drop(
            job,
            lambda session, owner, before: dropping.drop(
                session, owner, job.databases, published=job.published, before=before
            ),
            lambda _: self._tenant.jobs.finish_delete(job),
        )

    @step
    async def trash(self, job: InstanceJob) -> TrashResult:
        """Move the instance's database to the trash, and end the sessions on it."""
        _require(job, Operation.DELETE, DeleteArguments(keep=True, backup_first=job.backup_first))
        server, jobs = self._tenant.server, self._tenant.jobs
        kept, recorded = await self._delete(
            job,
            lambda session, owner: retiring.retire(
                server, session, trash_job(job, owner), drop_invalid=True, published=job.published
            ),
            lambda kept: jobs.finish_delete(job, is_lost=not kept),
        )
        return TrashResult(kept is not False, recorded)

    @step
    async def detach(self, job: InstanceJob) -> bool:
        """Remove the mark of the instance's database, which stays; true if `Deleted` was recorded."""
        _require(job, Operation.DETACH, NO_ARGUMENTS)
        server = self._tenant.server
        _, recorded = await self._delete(
            job,
            lambda session, owner: adoption.let_go(
                server, session, owner, job.databases, published=job.published
            ),
            lambda _: self._tenant.jobs.finish_delete(job),
        )
        return recorded

    @step
    async def undelete(self, job: InstanceJob) -> None:
        """Give the database in the trash its name back, open."""
        async with heartbeats(), self._fence.under_way(job) as (session, owner):
            server, kept, name = self._tenant.server, job.trash_database, job.final_database
            await activating.require_no_later(session, owner, kept)
            await activating.take_out(server, session, owner, kept, name, former=job.database)

    @step
    async def purge(self, job: InstanceJob) -> bool:
        """Drop the instance's database from the trash; true if that was recorded."""
        _require(job, Operation.PURGE, PurgeArguments(backup_first=False))
        return await self._drop(
            job,
            lambda session, owner, before: dropping.purge(session, owner, job.trash_database, before=before),
            lambda dropped: self._tenant.jobs.finish_purge(job, dropped=dropped),
        )

    @step
    async def back_up_trash(self, job: InstanceJob) -> bool:
        """Store a backup of the database in the trash, unless there is one of it as it is now.

        False if there is no database any more, so that there is none to drop either.
        """
        _require(job, Operation.PURGE, PurgeArguments(backup_first=True))
        following = Following()
        async with heartbeats(following.details), self._fence.under_way(job) as (session, owner):
            return await make_final_backup(self._tenant, self._work(session, job, following), job, owner)

    @step
    async def purge_backed_up(self, job: InstanceJob) -> bool:
        """Drop the instance's database from the trash as it was backed up; true if that was recorded."""
        _require(job, Operation.PURGE, PurgeArguments(backup_first=True))

        async def purge(session: asyncpg.Connection, owner: KnownOwner, before: _Before) -> bool:
            backup = await self._tenant.backups.final_of(job)
            proven = None if backup is None else proven_state(backup)
            require_backup = partial(require_final_backup, self._tenant, job)
            return await trash_backup.purge_backed_up(
                session, owner, job.trash_database, proven, require_backup, before
            )

        return await self._drop(
            job, purge, lambda dropped: self._tenant.jobs.finish_purge(job, dropped=dropped)
        )

    @step
    async def rename(self, job: InstanceJob) -> None:
        """Give the instance's database its new name; the sessions on it are ended."""
        async with heartbeats(), self._fence.under_way(job) as (session, owner):
            await activating.rename(self._tenant.server, session, owner, job.database, job.final_database)

    @step
    async def snapshot(self, job: InstanceJob) -> bool:
        """Make a read-only copy of the instance's database; true if the snapshot was recorded as well."""
        following = Following()
        try:
            async with heartbeats(following.details), self._fence.under_way(job) as (session, owner):
                work = self._work(session, job, following)

                async def copy(source: Database, private: Database) -> None:
                    with following.monitor() as monitor:
                        await work.done(copy_contents(source, private, monitor))

                await self._tenant.snapshots.make(session, job, owner, copy)
        except SupersededError:
            if await self._tenant.snapshots.store.is_done(job):
                return True
            raise
        return await _try_to_record(job, self._tenant.snapshots.finish(job))

    @step
    async def reset(self, job: InstanceJob) -> ReplaceResult:
        """Make another database beside the instance's, then exchange both: the old one goes to the trash."""
        return await self._replace(job, makes_one=True)

    @step
    async def undo_reset(self, job: InstanceJob) -> ReplaceResult:
        """Exchange the instance's database with the one in the trash that a reset has replaced."""
        return await self._replace(job, makes_one=False)

    @step
    async def compensate(self, job: InstanceJob) -> bool | None:
        """Undo what a job has left that has ended: see `Compensation.undo`."""
        async with heartbeats(), self._fence.ended(job) as (session, position):
            return await self._compensation.undo(session, job, position)

    async def _drop(
        self,
        job: InstanceJob,
        work: Callable[[asyncpg.Connection, KnownOwner, _Before], Awaitable[_Result]],
        finish: Callable[[_Result], Awaitable[bool]],
    ) -> bool:
        """As `_delete`, for a job that drops: from its DROP on, it is not cancelled; true if it is recorded.

        A cancellation during the DROP is recorded first: the client may want what the instance had before a
        reset, and then the registry refuses to record the drop.

        `work` gets what it must await right before each try at the DROP.
        """
        to_the_end = DroppingToTheEnd(partial(self._fence.require_due, job))

        async def record(result: _Result) -> bool:
            details = activity.cancellation_details()
            if details is not None and details.cancel_requested:
                await self._tenant.cancellations.record(job)
            return await finish(result)

        before = to_the_end.before_drop
        dropping_it = self._delete(job, lambda session, owner: work(session, owner, before), record)
        _, recorded = await to_the_end.run(dropping_it)
        return recorded

    async def _delete(
        self,
        job: InstanceJob,
        work: Callable[[asyncpg.Connection, KnownOwner], Awaitable[_Result]],
        record: Callable[[_Result], Awaitable[bool]],
    ) -> tuple[_Result | None, bool]:
        """Do the work of a delete behind the fence, and `record` its result, unless an earlier try did both.

        Returns the result, None if an earlier try had it, and whether it is recorded.
        """
        try:
            async with heartbeats(), self._fence.under_way(job) as (session, owner):
                result = await work(session, owner)
        except SupersededError:
            # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
            if await self._tenant.jobs.is_done(job):
                return None, True
            raise
        return result, await _try_to_record(job, record(result))

    async def _replace(self, job: InstanceJob, *, makes_one: bool) -> ReplaceResult:
        following = Following()
        with measured_job(job.kind.name):
            try:
                async with heartbeats(following.details), self._fence.under_way(job) as (session, owner):
                    exchange = exchange_of(job, owner)
                    if makes_one and await replacing.stage(session, exchange) is Stage.NOTHING:
                        await replacing.require_current(session, exchange)
                        await self._make_replacement(self._work(session, job, following), job, exchange)
                        await self._fence.require_due(job)
                    exchanged = await replacing.take_place(self._tenant.server, session, exchange)
            except SupersededError:
                # Unless an earlier try recorded the outcome, and its result did not reach Temporal.
                if await self._tenant.jobs.is_replaced(job):
                    return ReplaceResult(finished=True)
                raise
        generation = exchanged.template_generation if exchanged else None
        done = replace(job, template_generation=generation)
        finished = await _try_to_record(job, self._tenant.jobs.finish_replacement(done))
        return ReplaceResult(finished, generation)

    async def _make_replacement(self, work: FencedWork, job: InstanceJob, exchange: Exchange) -> None:
        replacement = replacement_of(job)
        successor = replace(exchange.successor, revision=None)  # it gets one when it takes the place
        wanted = Wanted(successor, exchange.other, replacement.template, replacement.origin)
        database = await self._provisioner.make(work, wanted)
        await self._provisioner.verify(database, exchange.other)
        self._provisioner.replace_claimed(database)

    async def _provision(self, job: InstanceJob, following: Following) -> ProvisionResult:
        async with self._fence.under_way(job) as (session, owner):
            wanted = Wanted(owner, job.database, job.template, job.origin)
            database = await self._provisioner.make(self._work(session, job, following), wanted)
        await self._provisioner.verify(database, job.database)
        connection_string = self._tenant.connection_strings.encrypted(job.database)
        done = replace(job, template_generation=database.template_generation)
        finished = await _try_to_record(job, self._tenant.jobs.finish_create(done, connection_string))
        self._provisioner.replace_claimed(database)  # only now: the client waits until that is recorded
        return ProvisionResult(job.database, database.size_bytes, finished, database.template_generation)

    def _work(self, session: asyncpg.Connection, job: InstanceJob, following: Following) -> FencedWork:
        return FencedWork(session, following, partial(self._report, job, following))

    async def _report(self, job: InstanceJob, following: Following) -> None:
        with suppress(*LOST, SQLAlchemyError, asyncpg.PostgresError):  # it is told again in a second
            await self._tenant.jobs.record_progress(job, following.percent, following.eta_seconds)


async def _try_to_record(job: InstanceJob, write: Awaitable[bool]) -> bool:
    try:
        with measured_job(job.kind.name), phase("record"):
            return await asyncio.wait_for(write, _FINISH_SECONDS)
    except Exception as error:  # noqa: BLE001 - the workflow's last step tries again and reports it
        _logger.info("The outcome is left to the workflow's last step: %s", fault_name(error))
        return False


def _require(job: InstanceJob, operation: Operation, arguments: Arguments) -> None:
    """Let no job take a database away that was not requested to do just that."""
    if (job.operation, job.arguments) != (operation, arguments):
        raise SupersededError
