"""Cancelling jobs that no workflow works on: those that have not begun, and those whose workflow is gone.

The cancel of a running job is recorded before its workflow is asked to end it. If the workflow is lost before
it has, the reconcile pass cancels the job.

Each cancel is a guarded step. If the job fails by it, it takes the job's next attempt: a workflow that would
begin that attempt finds it gone, and a late activity of an earlier one finds itself superseded. If the
instance stays as it was, its status does not let the job begin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import SQLColumnExpression, exists, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased

from ods.model.arguments import KEEP, takes_away
from ods.model.operations import AT_REST, WAITING, InstanceStatus, JobStatus, Operation, Step
from ods.model.revisions import TrashReason
from ods.registry.backups.rows import SCHEDULED, UNTIL_THE_NEXT, keep_for_another_restore
from ods.registry.instances.admin_api import is_recorded
from ods.registry.instances.jobs import InstanceJob, job_id
from ods.registry.instances.revisions import forget_intended, renew
from ods.registry.instances.steps import (
    CALLED_OFF,
    JobFactory,
    fencing_token,
    is_to_end,
    is_tried_after_outage,
    job_record,
    own_database,
    purge_follows,
    readable,
    take_step,
)
from ods.registry.keeping import hold_trash
from ods.registry.storage.errors import JobRefusedError
from ods.registry.storage.models import UTC_NOW, Backup, DbInstance, InstanceDatabase, Job, OdsInstance
from ods.registry.storage.sessions import RegistrySessions

CANCELLED = "The job was cancelled before it began."
"""Why a job has failed that was cancelled while it waited."""

CANCELLED_WITHOUT_WORKFLOW = "The job was cancelled."
"""Why a job has failed that was cancelled when it had begun and its workflow was gone."""

CANCELLED_IN_DOUBT = (
    "The job was cancelled because the registry may have been restored: it was recovered by `ods recover`,"
    " or its server has failed over, or no pass has run for more than a day. Whether the client has cancelled"
    " the job since, and has used the database, is not known. Request the same again only if that is still"
    " wanted."
)
"""Why a job has failed that would have dropped a database of a registry that may have been restored."""
NOT_DUE: Mapping[Any, object] = {InstanceDatabase.purge_after: None}
"""Columns of a database in the trash that only a request purges."""
NO_PURGE_FOLLOWS: Mapping[str, object] = {"arguments_column": asdict(KEEP)}
"""Columns of an instance after whose delete no purge follows any more."""
_NOT_DELETED: Mapping[Any, object] = {**NOT_DUE, InstanceDatabase.trashed_by: None}
"""Columns of a database whose delete was called off."""

# These jobs count no attempt: a counted one may have published the database, and deletes rely on that.
_KEPT: Mapping[str, object] = {
    **dict.fromkeys(("error_message", "new_name", "new_database_name")),
    "outages": 0,
}


class JobCancellations:
    """Cancels jobs of one tenant's instances in the registry alone."""

    def __init__(self, engine: AsyncEngine, factory: JobFactory) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory
        self.installation = factory.installation

    async def running_attempt(self, job: Job) -> InstanceJob | None:
        """The attempt at `job` that is under way; None if its instance has moved on."""
        instance = await self._instance_of(job)
        if instance is None or instance.status != InstanceStatus.IN_PROGRESS:
            return None
        return self._factory.last_attempt(instance)

    async def waiting_attempt(self, job: Job) -> InstanceJob | None:
        """The attempt at `job` that waits; None if it has begun, or its instance has moved on."""
        instance = await self._instance_of(job)
        if instance is None or instance.status not in WAITING:
            return None
        return self._factory.next_attempt(instance)

    async def failed_attempt(self, job: Job) -> InstanceJob | None:
        """The attempt at `job` that has failed; None if it has not, or its instance has moved on."""
        if job.status != JobStatus.ERROR:
            return None
        instance = await self._instance_of(job)
        return None if instance is None else self._factory.last_attempt(instance)

    async def was_tried_again(self, job: Job, failed: InstanceJob) -> bool:
        """Whether a later attempt at `job` waits, or has begun, since this one has `failed`.

        False if what the failed one had done was undone or recorded since, or another job has followed.
        """
        instance = await self._instance_of(job)
        return instance is not None and self._factory.current_attempt(instance).attempt > failed.attempt

    async def _instance_of(self, job: Job) -> DbInstance | None:
        await self.installation.state()  # read once: jobs carry the id of the installation
        async with self._sessions.statement() as session:
            return await _instance_at(session, job)

    async def is_tried_again(self, job: InstanceJob) -> bool:
        """Whether an outage has ended this attempt at a delete or purge, so that a pass tries it again."""
        tried = select(DbInstance.id).where(*fencing_token(job), is_tried_after_outage())
        return await self._sessions.finds(tried)

    async def give_up(self, job: InstanceJob) -> bool:
        """Record that a client has called off this failed attempt at a drop; the instance stays.

        Returns whether a pass would have tried it again, because an outage had ended it.
        """
        is_tried = select(is_tried_after_outage()).where(*fencing_token(job)).with_for_update()
        has_failed = DbInstance.status == InstanceStatus.DELETE_FAILED
        called_off = update(DbInstance).where(*fencing_token(job), has_failed)
        async with self._sessions.transaction() as session:
            was_tried = bool(await session.scalar(is_tried))
            await session.execute(called_off.values(outages=0, **CALLED_OFF))
            await renew(session, job.instance_id)
        return was_tried

    async def record(self, job: InstanceJob) -> bool:
        """Record that a client has cancelled this attempt, which is under way; false if it has moved on.

        Safe to repeat. The attempt goes on until its workflow ends it.
        """
        recorded = (
            update(DbInstance)
            .where(*fencing_token(job), DbInstance.status == InstanceStatus.IN_PROGRESS)
            .values(cancelled_attempt=job.attempt)
            .returning(DbInstance.id)
        )
        async with self._sessions.transaction() as session:
            is_recorded = await session.scalar(recorded) is not None
            if is_recorded and takes_away(job.operation, job.arguments):
                await renew(session, job.instance_id)
        return is_recorded

    async def is_cancelled(self, job: InstanceJob) -> bool:
        """Whether this very attempt is under way, and a client has cancelled it."""
        return await self._sessions.finds(select(DbInstance.id).where(*fencing_token(job), is_to_end()))

    async def cancel_waiting(self, job: Job) -> bool:
        """Record that a job which has not begun was cancelled; false if it has begun, or ended.

        A rename or delete of a working instance leaves it `Completed`, under its name.
        """
        await self.installation.state()
        async with self._sessions.transaction() as session:
            instance = await _instance_at(session, job, lock=True)
            return instance is not None and await self._cancel_next(session, instance)

    async def cancel_lost(self, job: InstanceJob) -> bool:
        """Record that a running job whose workflow is gone was cancelled; false if it has moved on.

        As in the reconcile pass, it is first put back to waiting, in the same transaction.
        """
        await self.installation.state()
        async with self._sessions.transaction() as session:
            return await self._cancel_lost(session, job)

    async def hold_drops(self) -> Sequence[InstanceJob]:
        """Call off every drop for a registry that was restored, or whose server has failed over.

        Besides what `call_off_drops` does, what is in the trash stays for `KEPT_IN_DOUBT` at least, and the
        last scheduled backup of each instance stays until the next one. `/health` and the console say so.
        Returns the cancelled attempts.
        """
        cancelled = await self.call_off_drops()
        async with self._sessions.transaction() as session:
            await hold_trash(session)
            await _keep_last_backups(session)
        self.installation.forget()
        return cancelled

    async def call_off_drops(self) -> Sequence[InstanceJob]:
        """Cancel every waiting or running job that would drop or replace a database; safe to repeat.

        No pass requests or tries again what would drop one, either. For a registry that may have been
        restored: since it was saved, a client may have cancelled the job or protected the instance, and
        relied upon the database. Returns the cancelled attempts.
        """
        await self.installation.state()
        unended = (DbInstance.status.not_in(AT_REST), DbInstance.is_adopted, is_recorded())
        async with self._sessions.transaction() as session:
            waiting = await session.scalars(select(DbInstance).where(*unended).order_by(DbInstance.id))
            drops = [row for row in readable(waiting.all()) if _drops_for_good(row)]
            cancelled = [job for row in drops if (job := await self._cancel_drop(session, row))]
            await _call_off_what_passes_do(session)
        return cancelled

    async def _cancel_drop(self, session: AsyncSession, instance: DbInstance) -> InstanceJob | None:
        await session.refresh(instance, with_for_update=True)
        if not _drops_for_good(instance):  # it has another job by now
            return None
        job = self._factory.current_attempt(instance)
        if instance.status == InstanceStatus.IN_PROGRESS:
            is_cancelled = await self._cancel_lost(session, job, CANCELLED_IN_DOUBT)
        else:
            is_cancelled = await self._cancel_next(session, instance, CANCELLED_IN_DOUBT)
        return job if is_cancelled else None

    async def _cancel_lost(
        self, session: AsyncSession, job: InstanceJob, reason: str = CANCELLED_WITHOUT_WORKFLOW
    ) -> bool:
        lost = (*fencing_token(job), DbInstance.status == InstanceStatus.IN_PROGRESS)
        if not await take_step(session, job, job.rules.release, {}, lost):
            return False
        instance = await session.get_one(DbInstance, job.instance_id, populate_existing=True)
        return await self._cancel_next(session, instance, reason)

    async def _cancel_next(
        self, session: AsyncSession, instance: DbInstance, reason: str = CANCELLED
    ) -> bool:
        """Take the attempt for which the locked instance waits, if it does, and let it fail at once."""
        due = self._factory.next_attempt(instance)
        ending = await ending_before_begin(session, instance, cancelled=reason)
        step, attempt = ending.step, ending.instance.get("attempt", due.attempt)
        values = {**ending.instance, "cancelled_attempt": attempt}
        if not await take_step(session, due, step, values, fencing_token(due, due.attempt - 1)):
            return False
        if ending.database:
            await session.execute(own_database(due).values(ending.database))
        await forget_intended(session, due)
        await keep_for_another_restore(session, due)
        await session.execute(job_record(due, step.job, reason))
        return True


async def _call_off_what_passes_do(session: AsyncSession) -> None:
    """Let no pass purge after a delete, try a failed delete again, or drop a version that it has claimed."""
    in_trash = DbInstance.is_in_trash, DbInstance.status.in_(AT_REST), purge_follows()
    await call_off_purges(session, *in_trash)
    has_failed = DbInstance.status == InstanceStatus.DELETE_FAILED
    await session.execute(update(DbInstance).where(has_failed).values(outages=0, **CALLED_OFF))
    claimed = update(InstanceDatabase).where(InstanceDatabase.purging_since.is_not(None))
    await session.execute(claimed.values(purging_since=None))


async def call_off_purges(session: AsyncSession, *conditions: SQLColumnExpression[bool]) -> Sequence[int]:
    """Let no purge follow the deletes of the instances that fulfil these conditions; returns their ids."""
    called_off = update(DbInstance).where(*conditions).values({**NO_PURGE_FOLLOWS, "error_message": None})
    ids = (await session.scalars(called_off.returning(DbInstance.id))).all()
    trashed = InstanceDatabase.instance_id.in_(ids), InstanceDatabase.reason == TrashReason.DELETED
    await session.execute(update(InstanceDatabase).where(*trashed).values(NOT_DUE))
    return ids


async def _keep_last_backups(session: AsyncSession) -> None:
    """Let the last scheduled backup of each instance stay, as if that was unchanged, until the next one."""
    later = aliased(Backup)
    is_later = (later.mark == Backup.mark, later.created_at > Backup.created_at)
    has_later = exists().where(*is_later, later.kind == SCHEDULED, later.stored_id.is_not(None))
    last = (Backup.kind == SCHEDULED, Backup.stored_id.is_not(None), ~has_later)
    await session.execute(update(Backup).where(*last).values(unchanged_at=UNTIL_THE_NEXT))


def _drops_for_good(instance: DbInstance) -> bool:
    return takes_away(Operation(instance.operation), instance.arguments)


def refusal(job: Job) -> JobRefusedError:
    """Why a job cannot be cancelled that has ended, or is another product's."""
    if job.operation is None:
        reason, next_step = "The job is another product's.", "Cancel it in the product that started it."
    else:
        reason = f"A job in state {job.status} cannot be cancelled: it has ended."
        next_step = "Nothing is left to cancel. Retry it if it failed; another job can undo what is done."
    return JobRefusedError(job.status, reason, next_step)


async def _instance_at(session: AsyncSession, job: Job, *, lock: bool = False) -> DbInstance | None:
    """The instance whose last job this is; None if it has another one by now."""
    if job.instance_id is None:
        return None
    instance = await session.get(DbInstance, job.instance_id, with_for_update=lock)
    if instance is None or instance.ods_instance_id is None:
        return None
    last = job_id(instance.word, instance.ods_instance_id, instance.job_number)
    return instance if last == job.job_id else None


@dataclass(frozen=True)
class Ending:
    """How a job ends before it begins: the step, and the columns of the instance and of its database."""

    step: Step
    instance: Mapping[str, object]
    database: Mapping[Any, object]


async def ending_before_begin(
    session: AsyncSession, instance: DbInstance, refusal: str | None = None, *, cancelled: str = CANCELLED
) -> Ending:
    """How a job ends that is refused (`refusal`) or cancelled before it begins.

    The caller has locked the instance. The reason is written to it as well, unless it is as it was before the
    job was requested.
    """
    rules = instance.rules
    if await _is_as_before(session, instance):
        return Ending(rules.keep, {**_KEPT, "attempt": instance.attempt}, _NOT_DELETED)
    values: dict[str, object] = {"error_message": refusal or cancelled, "outages": 0}
    if instance.attempt == 0:  # otherwise the reconcile pass undoes what the attempts have done
        values["replacement"] = None
    if refusal is not None:
        return Ending(rules.refuse, values, {})
    if rules.is_live:
        return Ending(rules.cancel, values, {})
    return Ending(rules.cancel, {**values, "error_message": None}, NOT_DUE)


async def keep_if_refused(session: AsyncSession, instance: DbInstance) -> None:
    """Let an instance be `Completed` again whose delete was cancelled or refused before it began.

    Only if it still works as before the delete was requested. The transaction has written to the instance.
    """
    last = job_id(instance.word, instance.ods_instance_id, instance.job_number)
    ended_before = exists().where(Job.job_id == last, Job.status == JobStatus.ERROR, Job.started_at.is_(None))
    step = instance.rules.keep_later
    may_be_kept = instance.status in step.sources
    if may_be_kept and await session.scalar(select(ended_before)) and await _is_as_before(session, instance):
        kept = {**_KEPT, "error_message": instance.error_message, "status": step.target}
        await session.execute(
            update(DbInstance).where(DbInstance.id == instance.id).values(**kept, last_modified=UTC_NOW)
        )
        own = update(InstanceDatabase).where(InstanceDatabase.id == instance.database.id)
        await session.execute(own.values(_NOT_DELETED))


async def _is_as_before(session: AsyncSession, instance: DbInstance) -> bool:
    """Whether an instance whose job waits works as it did before the job was requested.

    Not sure after a rename that has begun and failed: the database may have the new name.
    """
    if not instance.rules.is_kept:
        return False
    if instance.rules.ends_use:  # only when it begins: before that, it touches no database
        its = select(OdsInstance).where(OdsInstance.ods_instance_id == instance.ods_instance_id)
        is_whole = instance.is_published and not instance.undo_due
        return is_whole and bool(await session.scalar(select(exists(its))))
    if instance.attempt != 0:
        return False
    last_begun = (
        select(Job.operation == instance.rules.word, Job.status == JobStatus.ERROR)
        .where(Job.instance_id == instance.id, Job.started_at.is_not(None))
        .order_by(Job.id.desc())
        .limit(1)
    )
    row = (await session.execute(last_begun)).one_or_none()
    return row is None or not all(row)
