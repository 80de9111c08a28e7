"""Activities that create, rename and drop databases, under the fence and after asking the registry."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import asyncpg
from temporalio import activity

from activities.backups import make_final_backup, require_final_backup
from activities.compensation import Compensation
from activities.endings import Endings, JobEnd, Outcome
from activities.errors import SupersededError, step
from activities.following import FencedWork, heartbeats
from activities.job_fence import ConcurrencyLimit, DroppingToTheEnd, JobFence
from activities.provisioner import Provisioner, Wanted
from ods.backups.copying import copy_contents
from ods.backups.snapshots import Database
from ods.databases import activating, adoption, dropping, replacing, retiring, trash_backup
from ods.databases.errors import DisagreementError
from ods.databases.lookup import has_current
from ods.databases.ownership import Owner
from ods.databases.replacing import Exchange, Stage
from ods.databases.server import leave_to_job
from ods.model.arguments import DROP_AT_ONCE, NO_ARGUMENTS, Arguments, DeleteArguments, PurgeArguments
from ods.model.operations import Operation
from ods.model.revisions import KnownRevisions
from ods.observability.logs import fault_name
from ods.observability.metrics.job_phases import measured_job
from ods.registry.backups.records import proven_state
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.versions import VersionPurge
from ods.registry.storage.models import DbInstance
from ods.tenants.job_owners import exchange_of, replacement_of, trash_job
from ods.tenants.tenant import Tenant

_FINISH_SECONDS = 2
_logger = logging.getLogger(__name__)

_Before: TypeAlias = Callable[[], Awaitable[object]]
"""As for `ods.databases.dropping.drop_found`."""


class DatabaseActivities:
    """The middle step of every job, on the server that holds the ODS databases.

    Most also try to record the end of the job (`activities/endings.py`). Databases from before resets are
    dropped here as well.

    `limit` does not count verifying and recording. Without `refill`, no spares are claimed.
    """

    def __init__(
        self, tenant: Tenant, limit: ConcurrencyLimit, refill: Callable[[], None] | None = None
    ) -> None:
        self._tenant = tenant
        self._fence = JobFence(tenant, limit)
        self._provisioner = Provisioner(tenant, refill)
        self._compensation = Compensation(tenant)
        self._endings = Endings(tenant)

    @step
    async def provision(self, job: InstanceJob) -> Outcome:
        """Make the database, publish it under its name, and verify that it answers."""
        with measured_job(job.kind.name):
            return await self._once(job, partial(self._provision, job))

    @step
    async def drop(self, job: InstanceJob) -> Outcome:
        """Drop the instance's database together with the sessions on it."""
        _require(job, Operation.DELETE, DROP_AT_ONCE)
        return await self._drop(
            job,
            lambda fenced, before: dropping.drop(
                fenced.session, fenced.owner, job.databases, published=job.published, before=before
            ),
        )

    @step
    async def trash(self, job: InstanceJob) -> Outcome:
        """Move the instance's database to the trash, and end the sessions on it."""
        _require(job, Operation.DELETE, DeleteArguments(keep=True, backup_first=job.backup_first))
        return await self._once(job, partial(self._work, job, self._retire))

    @step
    async def detach(self, job: InstanceJob) -> Outcome:
        """Remove the mark of the instance's database, which stays."""
        _require(job, Operation.DETACH, NO_ARGUMENTS)
        return await self._once(job, partial(self._work, job, self._let_go))

    @step
    async def undelete(self, job: InstanceJob) -> Outcome:
        """Give the database in the trash its name back, open."""
        async with self._fence.under_way(job) as fenced:
            server, kept, name = self._tenant.server, job.trash_database, job.final_database
            its = (fenced.session, fenced.owner, kept)
            await activating.require_no_later(*its)
            await activating.take_out(server, *its, name, former=job.database)
        return Outcome()

    @step
    async def purge(self, job: InstanceJob) -> Outcome:
        """Drop the instance's database from the trash."""
        _require(job, Operation.PURGE, PurgeArguments(backup_first=False))
        return await self._drop(
            job,
            lambda fenced, before: dropping.purge(
                fenced.session, fenced.owner, job.trash_database, before=before
            ),
        )

    @step
    async def back_up_trash(self, job: InstanceJob) -> bool:
        """Store a backup of the database in the trash, unless there is one of it as it is now.

        False if there is no database any more, so that there is none to drop either.
        """
        _require(job, Operation.PURGE, PurgeArguments(backup_first=True))
        async with self._fence.under_way(job) as fenced:
            return await make_final_backup(self._tenant, fenced, job)

    @step
    async def purge_backed_up(self, job: InstanceJob) -> Outcome:
        """Drop the instance's database from the trash as it was backed up."""
        _require(job, Operation.PURGE, PurgeArguments(backup_first=True))

        async def purge(fenced: FencedWork, before: _Before) -> bool:
            backup = await self._tenant.backups.final_of(job)
            proven = None if backup is None else proven_state(backup)
            require_backup = partial(require_final_backup, self._tenant, job)
            return await trash_backup.purge_backed_up(
                fenced.session, fenced.owner, job.trash_database, proven, require_backup, before
            )

        return await self._drop(job, purge)

    @step
    async def rename(self, job: InstanceJob) -> Outcome:
        """Give the instance's database its new name; the sessions on it are ended."""
        async with self._fence.under_way(job) as fenced:
            names = (job.database, job.final_database)
            await activating.rename(self._tenant.server, fenced.session, fenced.owner, *names)
        return Outcome()

    @step
    async def snapshot(self, job: InstanceJob) -> Outcome:
        """Make a read-only copy of the instance's database."""
        return await self._once(job, partial(self._work, job, self._make_snapshot))

    @step
    async def reset(self, job: InstanceJob) -> Outcome:
        """Exchange the instance's database, which goes to the trash, with a new or an earlier one of it."""
        with measured_job(job.kind.name):
            return await self._once(job, partial(self._replace, job))

    @step
    async def drop_replaced(self, job: InstanceJob) -> bool:
        """Drop the database that a reset has replaced, if it is not to be kept; true if it was dropped."""
        claimed = await self._tenant.versions.claim_replaced(job)
        for purge in claimed:
            await self.purge_version(purge)
        return bool(claimed)

    @step
    async def purge_version(self, purge: VersionPurge) -> None:
        """Drop a database from the trash that an instance had before a reset.

        Not while the instance is in use, and its own database is gone: the version is all that is left then.
        """
        owner = Owner(
            *(purge.tenant, purge.ods_instance_id, "", purge.mark, purge.installation),
            purge.number,
            database_id=purge.database_id,
        )
        async with self._fence.of(owner, before_waiting=leave_to_job) as session:
            instance = await self._tenant.versions.instance_of(purge)
            if instance is None:
                return
            revisions = await self._tenant.queries.revisions_of(instance.id)
            if instance.is_live:
                await _require_own(session, owner, instance, revisions)
            known = owner.knowing(revisions)
            before = partial(self._require_version, purge)
            try:
                dropped = await dropping.purge(session, known, purge.database, replaced=True, before=before)
            except SupersededError:
                return
        await self._tenant.versions.finish_purge(purge, dropped=dropped)

    async def _require_version(self, purge: VersionPurge) -> None:
        """Check once more that a version is to be dropped: its instance may be protected, or coming back."""
        await self._tenant.look_before_drop()
        if await self._tenant.versions.instance_of(purge) is None:
            raise SupersededError

    @step
    async def compensate(self, job: InstanceJob) -> bool | None:
        """Undo what a job has left that has ended: see `Compensation.undo`."""
        async with self._fence.ended(job) as (session, position):
            return await self._compensation.undo(session, job, position)

    async def _provision(self, job: InstanceJob) -> Outcome:
        async with self._fence.under_way(job) as fenced:
            wanted = Wanted(fenced.owner, job.database, job.template, job.origin)
            made = await self._provisioner.make(fenced, wanted)
        async with heartbeats():
            await self._provisioner.verify(made, job.database)
            outcome = Outcome(template_generation=made.template_generation, size_bytes=made.size_bytes)
            outcome = await self._recorded(job, outcome)
        self._provisioner.replace_claimed(made)  # only now: the client waits until that is recorded
        return outcome

    async def _retire(self, job: InstanceJob, fenced: FencedWork) -> bool:
        its = trash_job(job, fenced.owner)
        server, session = self._tenant.server, fenced.session
        return await retiring.retire(server, session, its, drop_invalid=True, published=job.published)

    async def _let_go(self, job: InstanceJob, fenced: FencedWork) -> None:
        server, its = self._tenant.server, (fenced.session, fenced.owner, job.databases)
        await adoption.let_go(server, *its, published=job.published)

    async def _make_snapshot(self, job: InstanceJob, fenced: FencedWork) -> None:
        async def copy(source: Database, private: Database) -> None:
            with fenced.following.monitor() as monitor:
                await fenced.done(copy_contents(source, private, monitor))

        await self._tenant.snapshots.make(fenced.session, job, fenced.owner, copy)

    async def _replace(self, job: InstanceJob) -> Outcome:
        async with self._fence.under_way(job) as fenced:
            session, exchange = fenced.session, exchange_of(job, fenced.owner)
            if not exchange.from_trash and await replacing.stage(session, exchange) is Stage.NOTHING:
                await replacing.require_current(session, exchange)
                await self._make_replacement(fenced, job, exchange)
                await self._fence.require_due(job)
            exchanged = await replacing.take_place(self._tenant.server, session, exchange)
        generation = exchanged.template_generation if exchanged else None
        return await self._recorded(job, Outcome(template_generation=generation))

    async def _make_replacement(self, fenced: FencedWork, job: InstanceJob, exchange: Exchange) -> None:
        replacement = replacement_of(job)
        successor = replace(exchange.successor, revision=None)  # it gets one when it takes the place
        wanted = Wanted(successor, exchange.other, replacement.template, replacement.origin)
        database = await self._provisioner.make(fenced, wanted)
        await self._provisioner.verify(database, exchange.other)
        self._provisioner.replace_claimed(database)

    async def _drop(
        self, job: InstanceJob, work: Callable[[FencedWork, _Before], Awaitable[bool | None]]
    ) -> Outcome:
        """Do work that drops: from its DROP on, the job is not cancelled.

        `work` gets what it must await right before each try at the DROP.
        """
        to_the_end = DroppingToTheEnd(partial(self._fence.require_due, job))
        dropping_it = partial(self._work, job, lambda _, fenced: work(fenced, to_the_end.before_drop))
        return await to_the_end.run(self._once(job, dropping_it))

    async def _work(
        self, job: InstanceJob, work: Callable[[InstanceJob, FencedWork], Awaitable[bool | None]]
    ) -> Outcome:
        """Do the work behind the fence, which may say whether there was a database, and record the end."""
        async with self._fence.under_way(job) as fenced:
            had_database = await work(job, fenced)
        return await self._recorded(job, Outcome(had_database=had_database))

    async def _once(self, job: InstanceJob, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Do the work, unless an earlier try has recorded the end, and its result did not reach Temporal."""
        try:
            return await work()
        except SupersededError:
            if await self._endings.is_recorded(job):
                return Outcome(is_recorded=True)
            raise

    async def _recorded(self, job: InstanceJob, outcome: Outcome) -> Outcome:
        """The outcome, with whether the end is recorded; the workflow's last step tries again if it is not.

        A cancellation during a DROP is recorded first: the client may want what the instance had before a
        reset, and then the registry refuses to record the drop.
        """

        async def record() -> bool:
            details = activity.cancellation_details()
            if job.rules.drops and details is not None and details.cancel_requested:
                await self._tenant.cancellations.record(job)
            return await self._endings.record(JobEnd(job, outcome))

        try:
            return replace(outcome, is_recorded=await asyncio.wait_for(record(), _FINISH_SECONDS))
        except Exception as error:  # noqa: BLE001 - the workflow's last step reports it
            _logger.info("The outcome is left to the workflow's last step: %s", fault_name(error))
            return outcome


def _require(job: InstanceJob, operation: Operation, arguments: Arguments) -> None:
    """Let no job take a database away that was not requested to do just that."""
    if (job.operation, job.arguments) != (operation, arguments):
        raise SupersededError


async def _require_own(
    session: asyncpg.Connection, version: Owner, instance: DbInstance, known: KnownRevisions
) -> None:
    """Refuse to drop a version of an instance whose own database is not there as the registry knows it."""
    own = replace(version, database_id=str(instance.database_id)).knowing(known)
    if not await has_current(session, own, instance.database_name):
        raise DisagreementError(
            instance.database_name,
            f"The database '{instance.database_name}' of the instance does not exist, or not as the registry"
            " knows it, so what it had before a reset is not dropped. `ods recover` brings that back; when an"
            " instance in the trash is purged, it is dropped.",
        )
