"""What workers do with the jobs of instances: their steps, and the queries of the passes that find jobs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    SQLColumnExpression,
    and_,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.operations import AT_REST, WAITING, InstanceStatus, JobStatus, Operation, Step
from ods.model.revisions import KnownRevisions, TrashReason, revision_by
from ods.registry.audit import AuditEntry, append
from ods.registry.backups.rows import keep_for_another_restore, record_final, record_stored
from ods.registry.backups.stored import RecordedBackup, StoredBackup
from ods.registry.education_organizations.store import forget
from ods.registry.instances import admin_api, ods_routing, revisions, versions
from ods.registry.instances.beginning import begin
from ods.registry.instances.cancelling import NO_PURGE_FOLLOWS, NOT_DUE, call_off_purges, keep_if_refused
from ods.registry.instances.deletes import DeleteRules
from ods.registry.instances.jobs import BeginResult, InstanceJob, JobWait
from ods.registry.instances.ods_routing import context_obstacle, contexts_to_come_back, give_back
from ods.registry.instances.reservations import leave_name, name_taken
from ods.registry.instances.steps import (
    CALLED_OFF,
    NO_PROGRESS,
    WAITS_FOR_NOTHING,
    Also,
    Guard,
    JobFactory,
    fencing_token,
    fencing_token_of,
    has_mark,
    has_taken,
    is_at,
    is_cancelled,
    is_to_end,
    is_tried_after_outage,
    job_record,
    own_database,
    purge_follows,
    readable,
    take_step,
    take_step_once,
    waited_until,
)
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.storage.errors import CancelledDropError, ContextTakenError
from ods.registry.storage.models import OUT_OF_TRASH, UTC_NOW, DbInstance, InstanceDatabase, Job
from ods.registry.storage.sessions import INTEGRITY_VIOLATION, RegistrySessions
from ods.settings.settings import VerifyPolicy

NO_NEW_NAMES = {"new_name": None, "new_database_name": None, "undo_due": False}
COME_BACK: dict[str, object] = {**NO_NEW_NAMES, "set_aside": None, "error_message": None}
"""Columns of an instance that has come back from the trash."""
_FORGOTTEN_ATTEMPTS = 10
"""How many attempts at a create a restored registry may have forgotten at most."""


@dataclass(frozen=True)
class Position:
    """Where an instance is at an attempt of a job."""

    status: InstanceStatus
    waits: bool  # the job is recorded as waiting for the end of an outage
    known: KnownRevisions
    is_cancelled: bool  # a client has cancelled this attempt
    is_in_trash: bool


class JobStore:
    """The steps of the jobs of one tenant's instances. The arguments are those of `InstanceStore`.

    Each is one guarded statement or transaction (see `ods.registry.instances.steps`) and safe to repeat.
    Those that return a bool return whether the instance is where the step leads, by this or an earlier call
    for the same attempt; if not, the instance has moved on, or the job is of another operation, and nothing
    was changed. Connection strings, which route the ODS/API to a database, are encrypted; methods that take
    one raise NameTakenError if an ODS instance took the name or the reserved id in the meantime.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        factory: JobFactory,
        trash: timedelta = timedelta(),
        *,
        final_backup: bool = False,
        strings: ods_routing.ConnectionStrings = ods_routing.UNREADABLE,
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory
        self.installation = factory.installation
        self._trash = trash
        self._strings = strings
        self._deletes = DeleteRules(trash, final_backup)

    async def begin(self, job: InstanceJob, refusal: str | None = None) -> BeginResult:
        """Take the instance for this attempt of `job`; for a delete, also stop the routing to its database.

        With a `refusal`, given or returned, the instance is taken only for the job to fail with it: so is a
        rename that its ODS instance could not follow. A delete or purge of a protected instance fails without
        the instance being held, as does a delete (perhaps another product's) of one that applications use; an
        instance that the ODS/API routes to is `Completed` again. A failed undelete does not begin again if
        its names or contexts were taken since; nor does a failed copy, or reset to one, whose source cannot
        be copied any more. If the instance has moved on, it is not held, and nothing was changed.
        """
        installation = await self.installation.require_confirmed()
        if job.installation != installation.id:
            return BeginResult(held=False)
        return await begin(self._sessions, job, refusal, self._deletes, self._strings)

    async def is_due(self, job: InstanceJob) -> bool:
        """Whether the instance waits for this very attempt of `job` to begin."""
        before = fencing_token(job, job.attempt - 1)
        async with self._sessions.statement() as session:
            return await is_at(session, before, job.rules.release.target)

    async def next_attempt(self, job: InstanceJob) -> InstanceJob | None:
        """The attempt that comes after `job`, which has failed; None if the instance has another job by now.

        It is as the instance is now: its database may have another name since, as after a rename that was
        followed, and it is at another request if the instance was given a database.
        """
        await self.installation.state()
        its = (DbInstance.id == job.instance_id, DbInstance.mark == UUID(job.mark))
        same = (DbInstance.job_number == job.number, DbInstance.operation == job.operation)
        async with self._sessions.statement() as session:
            row = await session.scalar(select(DbInstance).where(*its, *same, DbInstance.status.in_(AT_REST)))
        if row is None or not readable([row]):
            return None
        attempt = self._factory.next_attempt(row)
        if attempt.request == job.request and job.rules.replaces and attempt.replacement is None:
            return replace(attempt, replacement=job.replacement)  # the undo has taken that from the row
        return attempt

    async def holds(self, job: InstanceJob, state: InstanceStatus) -> bool:
        """Whether the instance is at this very attempt of `job`, in `state`."""
        async with self._sessions.statement() as session:
            return await is_at(session, fencing_token(job), state)

    async def position(self, job: InstanceJob) -> Position | None:
        """Where the instance is at this very attempt of `job`; None if it has moved on."""
        query = (
            select(
                DbInstance.status,
                Job.waiting_for.is_not(None),
                revisions.known_of_instance(),
                is_cancelled(),
                DbInstance.is_in_trash,
            )
            .outerjoin(Job, Job.job_id == job.job_id)
            .where(*fencing_token(job))
        )
        async with self._sessions.statement() as session:
            row = (await session.execute(query)).one_or_none()
        if row is None:
            return None
        status, waits, known, *flags = row
        return Position(InstanceStatus(status), bool(waits), revisions.as_known(known), *flags)

    async def known_revisions(self, job: InstanceJob) -> KnownRevisions:
        """The revisions of the instance's databases that the registry knows; none if the instance is gone.

        Whichever job is its last: what is to be done to a database needs the `position` of the job.
        """
        is_its = (DbInstance.id == job.instance_id, DbInstance.mark == UUID(job.mark))
        query = select(revisions.known_of_instance()).where(*is_its)
        async with self._sessions.statement() as session:
            return revisions.as_known(await session.scalar(query))

    async def resolve(self, job: InstanceJob, seen: Collection[str], tried: Collection[str] = ()) -> None:
        """Record which revisions the databases of an instance have after its last job, `job`, has ended.

        `seen` are the revisions in the comments of the databases, read behind the fence; `tried`, those that
        were due.
        """
        locked = select(DbInstance.id).where(*fencing_token(job), DbInstance.status.in_(AT_REST))
        async with self._sessions.transaction() as session:
            if await session.scalar(locked.with_for_update()) is not None:
                await revisions.resolve(session, job.instance_id, seen, tried)

    async def is_done(self, job: InstanceJob) -> bool:
        """Whether this very attempt of a delete or purge is recorded as done."""
        step = job.rules.finish
        async with self._sessions.statement() as session:
            return await has_taken(session, job, step, fencing_token(job))

    async def record_wait(self, wait: JobWait) -> None:
        """Record what a running job waits for; not of one that has ended."""
        held = exists().where(*fencing_token(wait.job))
        running = (Job.job_id == wait.job.job_id, Job.status == JobStatus.IN_PROGRESS, held)
        since = UTC_NOW - _seconds(wait.since_seconds)
        values = {
            "waiting_for": wait.reason,
            "waiting_since": since,
            "waiting_until": UTC_NOW + _seconds(wait.until_seconds),
            "waited_seconds": waited_until(since),
            **NO_PROGRESS,
        }
        async with self._sessions.statement() as session:
            await session.execute(update(Job).where(*running).values(**values))

    async def end_wait(self, job: InstanceJob) -> None:
        """Record that a running job waits for nothing any more."""
        held = exists().where(*fencing_token(job))
        waits = (Job.job_id == job.job_id, Job.waiting_for.is_not(None), held)
        async with self._sessions.statement() as session:
            await session.execute(update(Job).where(*waits).values(**WAITS_FOR_NOTHING))

    async def finish_create(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed`, and route the ODS/API to the published database."""
        also = partial(revisions.confirmed, job)
        return await self._complete(job, job.rules.finish, connection_string, also)

    async def follow_database(self, job: InstanceJob, connection_string: str, revision: str | None) -> bool:
        """Record as `Completed` an instance whose create has failed, but whose database was published.

        `revision` is that of the database; it stays unrecorded if no attempt at this create has given it.
        """
        attempts = range(1, job.attempt + _FORGOTTEN_ATTEMPTS + 1)
        given = {revision_by(job.request, attempt, job.database_id) for attempt in attempts}
        also = partial(revisions.confirmed_as, job, revision) if revision in given else None
        return await self._complete(job, job.rules.follow, connection_string, also)

    async def _complete(
        self, job: InstanceJob, step: Step, connection_string: str, also: Also | None
    ) -> bool:
        created = {"ods_instance_name": job.name, "error_message": None}
        published = {
            InstanceDatabase.published_at: UTC_NOW,
            InstanceDatabase.template_generation: job.template_generation,
        }
        guard = (*fencing_token(job), DbInstance.operation == Operation.CREATE)
        conflicts = {INTEGRITY_VIOLATION: partial(name_taken, job.name)}
        async with self._sessions.transaction(conflicts) as session:
            took_step = await take_step(session, job, step, created, guard, also)
            if took_step:
                await session.execute(own_database(job).values(published))
                await ods_routing.start_routing(session, job, connection_string)
            return took_step or await is_at(session, guard, step.target)

    async def finish_rename(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed` under its new names, and route the ODS/API to its database.

        Its derivatives and other ODS instances follow, if they name the database. The former name stays
        reserved.
        """
        step = job.rules.finish
        renamed = {
            "name": job.final_name,
            "ods_instance_name": job.final_name,
            "database_name": job.final_database,
            **NO_NEW_NAMES,
        }
        guard = fencing_token_of(Operation.RENAME, job)
        conflicts = {INTEGRITY_VIOLATION: partial(name_taken, job.final_name)}
        async with self._sessions.transaction(conflicts) as session:
            also = partial(revisions.confirmed, job)
            took_step = await take_step(session, job, step, renamed, guard, also)
            if took_step:
                await ods_routing.change_routing(session, job, connection_string, self._strings)
                await leave_name(session, job.instance_id, job.database, job.final_database)
            return took_step or await is_at(session, guard, step.target)

    async def follow_rename(self, job: InstanceJob, connection_string: str) -> bool:
        """Record that the database keeps the name that a failed rename has given it: the old one is taken.

        The instance keeps its own name, and its status. `job` is its last job, with the names of the rename.
        """
        is_its = DbInstance.new_database_name == job.final_database
        guard = (*fencing_token(job), is_its, DbInstance.status.in_(AT_REST))
        moved = update(DbInstance).where(*guard, DbInstance.database_name == job.database)
        async with self._sessions.transaction() as session:
            followed = moved.values(database_name=job.final_database, last_modified=UTC_NOW)
            if await session.scalar(followed.returning(DbInstance.id)) is None:
                has_it = exists().where(*guard, DbInstance.database_name == job.final_database)
                return bool(await session.scalar(select(has_it)))
            names = (job.database, job.final_database)
            await ods_routing.move_routing(
                session, job.ods_instance_id, names, connection_string, self._strings
            )
            await leave_name(session, job.instance_id, job.database, job.final_database)
            return True

    async def finish_delete(self, job: InstanceJob, *, is_lost: bool = False) -> bool:
        """Record the instance as `Deleted`: in the trash, if the job moves its database there.

        `is_lost` says that there was none to move.

        Raises:
            CancelledDropError: as for `finish_purge`, if the database was dropped.
        """
        if not (job.rules.ends_use and job.rules.is_live):
            return False
        step = job.rules.finish
        is_kept = job.rules.to_trash and not is_lost
        async with self._sessions.transaction() as session:
            if job.rules.drops:
                await _keep_versions_of_cancelled(session, job)
            outcome: dict[str, object] = {**NO_NEW_NAMES, **({} if is_kept else {"set_aside": None})}
            gone = partial(revisions.gone, UUID(job.database_id))
            also = partial(revisions.confirmed, job) if is_kept else gone
            took_step = await take_step(session, job, step, outcome, fencing_token(job), also)
            if took_step:
                database = await self._in_trash(session, job) if is_kept else OUT_OF_TRASH
                await session.execute(own_database(job).values(database))
                if not (job.rules.releases or job.backup_first):
                    await versions.follow_delete(session, job.instance_id, kept=job.rules.to_trash)
                if job.backup_first:  # a client may have cancelled both, too late for this one
                    await _call_off_purge(session, job, is_cancelled())
            return took_step or await has_taken(session, job, step, fencing_token(job))

    async def _in_trash(self, session: AsyncSession, job: InstanceJob) -> Mapping[Any, object]:
        """The columns of a database that a delete has moved to the trash."""
        # The job may have waited, or been retried, until after the end that the request has computed. The
        # client was told that the delete can be undone, even if there is no trash any more.
        end = await end_of(session, self._trash or KEPT_IN_DOUBT)
        kept_until = None if job.backup_first else func.greatest(InstanceDatabase.purge_after, end)
        return {
            InstanceDatabase.reason: TrashReason.DELETED,
            InstanceDatabase.trashed_at: UTC_NOW,
            InstanceDatabase.job_number: job.number,
            InstanceDatabase.purge_after: kept_until,
        }

    async def finish_undelete(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the instance as `Completed`, route the ODS/API to it, and give back what was set aside.

        Raises:
            ContextTakenError: another product gave a context to another one.
        """
        step = job.rules.finish
        restored: dict[str, object] = {
            "name": job.final_name,
            "ods_instance_name": job.final_name,
            "database_name": job.final_database,
            **COME_BACK,
        }
        guard = fencing_token_of(Operation.UNDELETE, job)
        conflicts = {INTEGRITY_VIOLATION: partial(name_taken, job.final_name)}
        async with self._sessions.transaction(conflicts) as session:
            parts = select(DbInstance.set_aside, DbInstance.own_contexts).where(*guard)
            kept, own = (await session.execute(parts)).one_or_none() or (None, None)
            also = partial(revisions.confirmed, job)
            took_step = await take_step(session, job, step, restored, guard, also)
            if took_step:
                published_at = func.coalesce(InstanceDatabase.published_at, UTC_NOW)
                its = {**OUT_OF_TRASH, InstanceDatabase.published_at: published_at}
                await session.execute(own_database(job).values(its))
                contexts = contexts_to_come_back(kept, None if job.published else own)
                if (obstacle := await context_obstacle(session, job.ods_instance_id, contexts)) is not None:
                    raise ContextTakenError(obstacle)
                await ods_routing.start_routing(session, replace(job, name=job.final_name), connection_string)
                renamed = partial(self._strings.renamed, job.database, job.final_database)
                await give_back(session, job.ods_instance_id, kept, renamed)
                await leave_name(session, job.instance_id, job.database, job.final_database)
                await versions.keep_versions(session, job.instance_id, self._trash)
            return took_step or await is_at(session, guard, step.target)

    async def finish_purge(self, job: InstanceJob, *, dropped: bool | None = None) -> bool:
        """Record that the instance has no database in the trash any more, in the audit trail as well.

        `dropped` says whether there was a database to drop; None if that is not known any more.

        Raises:
            CancelledDropError: a client has cancelled the purge, and the instance had another database before
                a reset, which would be dropped as well.
        """
        return await self._purged(job, job.rules.finish, dropped=dropped)

    async def follow_drop(self, job: InstanceJob) -> bool:
        """Record the same of a purge that was cancelled too late: it had dropped the database."""
        return await self._purged(job, job.rules.follow, dropped=None)

    async def _purged(self, job: InstanceJob, step: Step, *, dropped: bool | None) -> bool:
        guard = fencing_token_of(Operation.PURGE, job)
        purged = {"set_aside": None, "error_message": None, **NO_NEW_NAMES}
        async with self._sessions.transaction() as session:
            await _lock(session, job)
            if step != job.rules.follow:
                await _keep_versions_of_cancelled(session, job)
            also = partial(revisions.gone, UUID(job.database_id))
            not_done = (*guard, DbInstance.has_database_in_trash)
            took_step = await take_step(session, job, step, purged, not_done, also)
            if took_step:
                await session.execute(own_database(job).values(OUT_OF_TRASH))
                await versions.follow_delete(session, job.instance_id, kept=False)
                await append(session, _purge_entry(job, dropped=dropped))
            return took_step or await has_taken(session, job, step, guard)  # false if it was cancelled

    async def finish_backup(
        self, job: InstanceJob, stored: StoredBackup, verify: VerifyPolicy
    ) -> RecordedBackup:
        """Record a stored backup, to be verified if `verify` says so; the instance is `Completed` again."""
        step, guard = job.rules.finish, fencing_token_of(Operation.BACKUP, job)
        async with self._sessions.transaction() as session:
            if await take_step(session, job, step, {"error_message": None}, guard):
                return RecordedBackup(recorded=True, verify=await record_stored(session, job, stored, verify))
            return RecordedBackup(await has_taken(session, job, step, guard))

    async def record_final_backup(self, job: InstanceJob, stored: StoredBackup, state: str) -> bool:
        """Record the backup that a purge has stored before it drops the database, which had this `state`.

        Returns whether the instance is at this attempt of the job, and the registry has the backup.
        """
        guard = (*fencing_token_of(Operation.PURGE, job), DbInstance.backup_first)
        held = select(DbInstance.id).where(*guard, DbInstance.status == InstanceStatus.IN_PROGRESS)
        async with self._sessions.transaction() as session:
            is_held = await session.scalar(held.with_for_update()) is not None
            return is_held and await record_final(session, job, stored, state)

    async def record_progress(self, job: InstanceJob, percent: int, eta_seconds: int | None) -> bool:
        """Record how far a running job is; false if the instance is not at this attempt of it any more.

        A job that has done a part of its work waits for nothing any more.
        """
        held = exists().where(*fencing_token(job), DbInstance.status == InstanceStatus.IN_PROGRESS)
        running = (
            update(Job)
            .where(Job.job_id == job.job_id, held)
            .values(percent=percent, eta_seconds=eta_seconds, **(WAITS_FOR_NOTHING if percent else {}))
            .returning(Job.id)
        )
        return await self._sessions.finds(running)

    async def finish_replacement(self, job: InstanceJob) -> bool:
        """Record that another database is the instance's from now on, and keep the replaced as a version.

        It is kept for a while even where resets keep nothing: if a client has cancelled this one too late, or
        if an earlier attempt was reported as failed, which may have exchanged the databases.
        """
        step = job.rules.finish
        if not job.rules.replaces:
            return False
        async with self._sessions.transaction() as session:
            if await self._exchanged(session, job, step, in_doubt=job.attempt > 1):
                return True
            done = (*fencing_token(job), _has_replacement(job))
            return await has_taken(session, job, step, done)

    async def follow_exchange(self, job: InstanceJob) -> bool:
        """Record the same of a reset that failed or was cancelled after it had exchanged the databases.

        Clients were told that the instance has its former database: that can come back for a while, even
        where resets keep nothing. Another product may have requested a delete meanwhile (then `job` is that):
        it moves the new database to the trash, but no purge follows by itself, for its backup would lack the
        former one. Returns whether it was recorded now.
        """
        async with self._sessions.transaction() as session:
            if job.rules.replaces:
                return await self._exchanged(session, job, job.rules.follow, in_doubt=True)
            its = (*_waits_for_end(job), DbInstance.is_live)  # a deleted one would be lost from the trash
            moved = update(DbInstance).where(*its).values(_exchange(job))
            recorded = await session.scalar(moved.returning(DbInstance.id)) is not None
            if recorded:
                await versions.record_exchange(session, job, self._trash, in_doubt=True)
                purged = update(DbInstance).where(DbInstance.id == job.instance_id, purge_follows())
                await session.execute(purged.values(NO_PURGE_FOLLOWS))
            return recorded

    async def _exchanged(
        self, session: AsyncSession, job: InstanceJob, step: Step, *, in_doubt: bool
    ) -> bool:
        """Record the exchange by this step; false if the instance is not at this attempt of the job.

        What is replaced is kept as `in_doubt` also if a client has cancelled the job.
        """
        guard = (*fencing_token(job), *_is_replacing(job))
        cancelled = await session.scalar(select(is_cancelled()).where(*guard).with_for_update())
        values = {**_exchange(job), "error_message": None}
        # After a failure an earlier attempt may have exchanged them: `resolve` reads that in the comments.
        is_done = step == job.rules.finish
        also = partial(revisions.confirmed, job) if is_done else None
        if cancelled is None or not await take_step(session, job, step, values, guard, also):
            return False
        await versions.record_exchange(session, job, self._trash, in_doubt=in_doubt or cancelled)
        await forget(session, job.ods_instance_id)  # until its education organizations are read anew
        return True

    async def end_replacement(self, job: InstanceJob) -> None:
        """Record that nothing is left of a reset that failed or was cancelled before it exchanged anything.

        What it was to bring back can come back for a while longer, though its time may be over.
        """
        ended = update(DbInstance).where(*_waits_for_end(job)).values(replacement=None)
        async with self._sessions.transaction() as session:
            if await session.scalar(ended.returning(DbInstance.id)) is not None:
                await versions.keep_for_another_undo(session, job)
                if job.replacement is not None and not job.replacement.from_trash:
                    never = UUID(job.replacement.database_id)
                    await revisions.forget_database(session, job.instance_id, never)

    async def end_undo(self, job: InstanceJob) -> None:
        """Record that nothing is left to be undone of a rename or an undelete, whichever job is the last.

        The database has its name back: so an instance whose delete was refused before it began is `Completed`
        again.
        """
        ended = (DbInstance.undo_due, DbInstance.status.in_(AT_REST))
        undone = update(DbInstance).where(*fencing_token(job), *ended).values(undo_due=False)
        async with self._sessions.transaction() as session:
            if await session.scalar(undone.returning(DbInstance.id)) is not None:
                await keep_if_refused(session, await session.get_one(DbInstance, job.instance_id))

    async def is_replaced(self, job: InstanceJob) -> bool:
        """Whether this very attempt of a reset, or of its undo, is recorded as done."""
        step = job.rules.finish
        async with self._sessions.statement() as session:
            return await has_taken(session, job, step, (*fencing_token(job), _has_replacement(job)))

    async def fail(
        self, job: InstanceJob, reason: str, *, outage: bool = False, cancelled: bool = False
    ) -> bool:
        """Record that `job` has failed, or was cancelled while it ran; clients are shown the `reason`.

        If a client's cancel was recorded while the workflow gave up without knowing of it, no pass tries the
        job again, even after an `outage` (a server was away for longer than the job's policy waits).
        """
        guard = fencing_token(job)
        async with self._sessions.transaction() as session:
            # Locked, so that no cancel is recorded before the failure is.
            recorded = await session.scalar(select(is_cancelled()).where(*guard).with_for_update())
            await keep_for_another_restore(session, job)
            if cancelled:  # too late for the delete, which is done
                is_done = DbInstance.status == InstanceStatus.DELETED
                await _call_off_purge(session, job, *guard, is_done, purge_follows())
            step = job.rules.cancel_running if cancelled or recorded else job.rules.fail
            if step.target == job.rules.finish.target:
                return await _fail_alone(session, job, step, reason)
            outages = DbInstance.outages + 1 if outage and not recorded else 0
            values: dict[str, object] = {"error_message": reason, "outages": outages}
            if cancelled:  # in Temporal alone: the registry does not know it yet
                values |= CALLED_OFF
            return await take_step_once(session, job, step, values, guard)

    async def explain_failure(self, job: InstanceJob, reason: str) -> None:
        """Replace the reason why `job` has failed or was cancelled, if the instance is still at that."""
        steps = job.rules.fail, job.rules.cancel_running
        failed = DbInstance.status.in_([step.target for step in steps])
        explained = (
            update(DbInstance)
            .where(*fencing_token(job), failed)
            .values(error_message=reason)
            .returning(DbInstance.id)
            .cte("explained")
        )
        recorded = update(Job).where(Job.job_id == job.job_id, exists(select(explained.c.id)))
        async with self._sessions.statement() as session:
            await session.execute(recorded.values(error_message=reason).add_cte(explained))

    async def release(
        self, job: InstanceJob, half_dropped: Mapping[str, str] | None = None
    ) -> InstanceJob | None:
        """Put back to waiting a job that no workflow works on any more, or a delete that is tried again.

        `job` is the attempt that has begun last; `half_dropped` as for `unfinished_deletes`. Returns the
        attempt that is due then; None if nothing was changed: the instance has moved on, or a client has
        cancelled this attempt or called off the failed delete.
        """
        has_ended = DbInstance.status.in_((InstanceStatus.DELETE_FAILED, InstanceStatus.DELETED))
        is_wanted = or_(~has_ended, _is_tried_again(half_dropped or {}))
        is_done = and_(DbInstance.operation == Operation.PURGE, ~DbInstance.has_database_in_trash)
        guard = (*fencing_token(job), not_(is_done), ~is_to_end(), is_wanted)
        async with self._sessions.transaction() as session:
            await _lock(session, job)
            released = await take_step_once(session, job, job.rules.release, {}, guard)
        return replace(job, attempt=job.attempt + 1) if released else None

    async def waiting_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Up to `limit` jobs of rows in `Pending` and `Pending_Delete`, at the attempt that is due.

        Those of the lowest ids above `after`, by id; not what another product has added, and is not adopted
        yet.
        """
        waiting = DbInstance.status.in_(WAITING)
        # What an Admin API has written since `follow_admin_api` waits for the next sweep.
        wanted = and_(waiting, not_(admin_api.to_the_trash(self._deletes)))
        return [self._factory.next_attempt(row) for row in await self._page(wanted, after, limit)]

    async def follow_admin_api(self) -> None:
        """Follow what an Admin API has done to the table of the instances, which it shares.

        After it has given the table its newer name, the statuses are written in its words. A delete that it
        has written into a row gets the job that clients ask for, and moves the database to the trash if there
        is one. A job that it has overtaken has failed.
        """
        await self.installation.require_confirmed()
        async with self._sessions.statement() as session:
            await session.execute(select(func.adminapi.follow_rename()))
            await session.execute(admin_api.moved_to_trash(self._deletes))
            await session.execute(admin_api.recorded(self._deletes))
            await session.execute(admin_api.overtaken_jobs_ended())

    async def running_jobs(self, after: int, limit: int) -> Sequence[InstanceJob]:
        """Up to `limit` jobs of rows in `InProgress`, at the attempt under way; as `waiting_jobs`."""
        running = DbInstance.status == InstanceStatus.IN_PROGRESS
        return [self._factory.last_attempt(row) for row in await self._page(running, after, limit)]

    async def unfinished_deletes(self, half_dropped: Mapping[str, str]) -> Sequence[InstanceJob]:
        """Failed deletes that are tried again without the operator, at the attempt that failed.

        Those that an outage ended, a bounded number of times; and those whose database is among the
        `half_dropped`, which a DROP has begun to remove (marks of their instances, by name). Also purges that
        were cancelled too late, unless the instance had another database before a reset: recording the purge
        would drop that.
        """
        has_failed = and_(DbInstance.status == InstanceStatus.DELETE_FAILED, _is_tried_again(half_dropped))
        was_cancelled = and_(
            DbInstance.status == InstanceStatus.DELETED,
            DbInstance.operation == Operation.PURGE,
            DbInstance.is_in_trash,
            has_mark(half_dropped.values()),
            _own_trash_name_is_in(half_dropped),
            ~_is_kept_for_version(),
        )
        query = select(DbInstance).where(or_(has_failed, was_cancelled))
        return await self._last_attempts(query)

    async def failed_jobs(self, marks: Collection[str]) -> Sequence[InstanceJob]:
        """Failed jobs that may have to be undone, of the instances with these marks, as they failed.

        Those that ended in `Error`, deletes that drop, and undeletes that ended in the trash.
        """
        failed = or_(
            DbInstance.status == InstanceStatus.ERROR,
            and_(_drops_at_once(), DbInstance.status == InstanceStatus.DELETE_FAILED),
            and_(DbInstance.operation == Operation.UNDELETE, DbInstance.status == InstanceStatus.DELETED),
        )
        return await self._last_attempts(select(DbInstance).where(failed, has_mark(marks)))

    async def jobs_to_undo(self) -> Sequence[InstanceJob]:
        """The last jobs of instances that the registry knows to have something left to undo.

        A replacement was made, or begun, in vain; or a rename or undelete has begun and did not finish; or a
        comment is to get another revision.
        """
        is_due = or_(DbInstance.replacement.is_not(None), DbInstance.undo_due, revisions.HAS_DUE)
        return await self._last_attempts(select(DbInstance).where(is_due, DbInstance.status.in_(AT_REST)))

    async def job_before_renewal(self, instance_id: int) -> InstanceJob | None:
        """The last job of an instance of which a comment is to get another revision.

        None if none is, while a job waits or works, and if another release has written the job.
        """
        is_due = DbInstance.id == instance_id, DbInstance.status.in_(AT_REST), revisions.HAS_DUE
        its = select(DbInstance).where(*is_due)
        return next(iter(await self._last_attempts(its)), None)

    async def ended_jobs(self, marks: Collection[str]) -> Sequence[InstanceJob]:
        """The last jobs of the instances with these marks that no job works on, at their last attempt."""
        ended = DbInstance.status.in_(AT_REST)
        return await self._last_attempts(select(DbInstance).where(ended, has_mark(marks)))

    async def _last_attempts(self, query: Select[DbInstance]) -> Sequence[InstanceJob]:
        await self.installation.state()
        async with self._sessions.statement() as session:
            rows = await session.scalars(query.order_by(DbInstance.id))
            return [self._factory.last_attempt(row) for row in readable(rows)]

    async def _page(self, condition: ColumnElement[bool], after: int, limit: int) -> Sequence[DbInstance]:
        await self.installation.require_confirmed()
        query = (
            select(DbInstance).where(condition, DbInstance.is_adopted).order_by(DbInstance.id).limit(limit)
        )
        async with self._sessions.statement() as session:
            while rows := (await session.scalars(query.where(DbInstance.id > after))).all():
                if known := readable(rows):
                    return known
                after = rows[-1].id  # an empty page would mean that no more follow
        return []


async def _lock(session: AsyncSession, job: InstanceJob) -> None:
    """Lock the row of the instance for the statements that follow.

    They see what was committed while this one waited, also in the rows of databases, of which a guard asks.
    """
    await session.execute(select(DbInstance.id).where(DbInstance.id == job.instance_id).with_for_update())


async def _fail_alone(session: AsyncSession, job: InstanceJob, step: Step, reason: str) -> bool:
    """Record that `job` has failed and left its instance as it was: only the job's row shows it."""
    guard = fencing_token(job)
    if not await take_step(session, job, step, {"outages": 0, "error_message": None}, guard):
        return await has_taken(session, job, step, guard)
    if not job.rules.is_live:
        await session.execute(own_database(job).values(NOT_DUE))
    await session.execute(job_record(job, step.job, reason))
    return True


def _is_replacing(job: InstanceJob) -> Guard:
    """The instance has the database that the job replaces, and shall have the one that takes its place."""
    return (DbInstance.database_id == UUID(job.database_id), DbInstance.replacement == job.replacement_column)


def _waits_for_end(job: InstanceJob) -> Guard:
    """The same, while no job works on the instance, whichever was its last."""
    return (
        DbInstance.id == job.instance_id,
        DbInstance.mark == UUID(job.mark),
        DbInstance.status.in_(AT_REST),
        *_is_replacing(job),
    )


def _has_replacement(job: InstanceJob) -> ColumnElement[bool]:
    """The database that takes the place is the instance's by now."""
    if job.replacement is None:
        return false()
    its = DbInstance.database_id == UUID(job.replacement.database_id)
    return and_(DbInstance.replacement.is_(None), its)


def _exchange(job: InstanceJob) -> dict[str, object]:
    """The columns of an instance that has got the database of this job."""
    if job.replacement is None:
        return {}
    return {
        "database_id": UUID(job.replacement.database_id),
        "database_template": job.replacement.template,
        "replacement": None,
    }


def _purge_entry(job: InstanceJob, *, dropped: bool | None) -> AuditEntry:
    match dropped:
        case True:
            done = f"Dropped {job.trash_database}"
        case False:
            done = f"Found no {job.trash_database}, which an earlier try or another session has dropped"
        case None:
            done = f"Purged {job.trash_database}"
    title = f"{done}: the database {job.database} of {job.name}"
    if job.backup_first and dropped:
        title = f"{title}, after the backup {job.makes_backup}"
    path = f"/v2/trash/{job.instance_id}"
    return AuditEntry("worker", job.tenant, "PURGE", path, job.instance_id, job.job_id, HTTPStatus.OK, title)


def _seconds(seconds: float) -> ColumnElement[timedelta]:
    return literal(timedelta(seconds=seconds), Interval)


def _is_tried_again(half_dropped: Mapping[str, str]) -> ColumnElement[bool]:
    """Whether a failed delete is tried again without the operator, as `unfinished_deletes` says."""
    names = (DbInstance.database_name, DbInstance.new_database_name)
    has_name = or_(*(name.in_(half_dropped) for name in names), _own_trash_name_is_in(half_dropped))
    # While a version is left, a delete to the trash does not drop what is half dropped: it would fail again.
    is_trashed = and_(DbInstance.goes_to_trash, ~_has_version())
    drops = or_(is_trashed, _drops_at_once(), DbInstance.operation == Operation.PURGE)
    has_begun = and_(has_mark(half_dropped.values()), has_name, drops, ~_is_kept_for_version())
    return or_(is_tried_after_outage(), has_begun)


def _own_trash_name_is_in(names: Collection[str]) -> ColumnElement[bool]:
    return DbInstance.database.has(InstanceDatabase.trash_name.in_(names))


def _drops_at_once() -> ColumnElement[bool]:
    """The row's last job is a delete without the trash."""
    return and_(DbInstance.operation == Operation.DELETE, ~DbInstance.goes_to_trash)


def _is_kept_for_version() -> ColumnElement[bool]:
    """A client has called a drop off, and the instance had another database before a reset."""
    return and_(or_(DbInstance.status == InstanceStatus.DELETED, is_cancelled()), _has_version())


def _has_version() -> ColumnElement[bool]:
    """The instance had another database before a reset."""
    return exists().where(*versions.versions_of(DbInstance.id))


async def _call_off_purge(session: AsyncSession, job: InstanceJob, *guard: SQLColumnExpression[bool]) -> None:
    """Record, if the row of the job's instance fulfils `guard`, that no purge follows its delete."""
    if await call_off_purges(session, DbInstance.id == job.instance_id, *guard):
        await revisions.renew(session, job.instance_id)


async def _keep_versions_of_cancelled(session: AsyncSession, job: InstanceJob) -> None:
    """Refuse to record a drop that a client has cancelled too late for all but the versions.

    The instance is locked: no cancel is recorded between this and the end of the transaction.
    """
    is_kept = select(and_(is_to_end(), _has_version())).where(*fencing_token(job))
    if await session.scalar(is_kept.with_for_update()):
        raise CancelledDropError
