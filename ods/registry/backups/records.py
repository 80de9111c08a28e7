"""The backups that a registry knows: listing them, verifying them, deleting them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.operations import JOB_UNDER_WAY, JobStatus
from ods.registry.audit import AuditEntry, append
from ods.registry.backups.details import give_details_back
from ods.registry.backups.rows import (
    FINAL,
    SCHEDULED,
    UNTIL_THE_NEXT,
    VERIFICATION_FAILED,
    VERIFICATION_PASSED,
    VERIFICATION_RUNS,
    VERIFICATION_UNDER_WAY,
    VERIFICATION_WAITS,
    restore_under_way,
    stored_values,
    unlocked,
    without_zone,
)
from ods.registry.backups.stored import LostBackup
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import BackupNotFoundError, BackupRefusedError
from ods.registry.storage.listing import Page
from ods.registry.storage.models import UTC_NOW, Backup, DbInstance, Job
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.settings import VerifyPolicy

_STATUS = case(
    (Backup.stored_id.is_not(None), JobStatus.COMPLETED), else_=func.coalesce(Job.status, JobStatus.ERROR)
)
"""The status of a backup, in a query with its job."""


@dataclass(frozen=True)
class BackupState:
    """A backup, and how far it is.

    `needed` says that its job goes on although it is stored: it drops the database.
    """

    backup: Backup
    status: str
    error: str | None = None
    percent: int | None = None
    eta_seconds: int | None = None
    needed: bool = False


@dataclass(frozen=True)
class BackupFilter:
    """Which backups are listed: those that fulfil everything that is given."""

    kinds: Sequence[str] = ()
    instance_id: int | None = None
    statuses: Sequence[str] = ()

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions on a backup and its job."""
        conditions: list[ColumnElement[bool]] = [Backup.deleted_at.is_(None)]
        if self.kinds:
            conditions.append(Backup.kind.in_(self.kinds))
        if self.instance_id is not None:
            conditions.append(Backup.instance_id == self.instance_id)
        if self.statuses:
            conditions.append(_STATUS.in_(self.statuses))
        return conditions


class BackupRecords:
    """The backups of one tenant.

    One that is not there, or is deleted, raises `BackupNotFoundError`. One whose state does not allow what is
    requested raises `BackupRefusedError`, which says why, and what to do.
    """

    def __init__(self, engine: AsyncEngine, tenant: str) -> None:
        self._sessions = RegistrySessions(engine)
        self._tenant = tenant

    async def page(self, chosen: BackupFilter, page: Page) -> Sequence[BackupState]:
        """A page of the chosen backups, the newest first."""
        newest = (Backup.created_at.desc(), Backup.id)
        query = _with_job().where(*chosen.conditions).order_by(*newest).offset(page.offset).limit(page.limit)
        async with self._sessions.statement() as session:
            return [_state(*row) for row in (await session.execute(query)).all()]

    async def count(self, chosen: BackupFilter) -> int:
        """How many backups are chosen."""
        chosen_ids = _with_job().with_only_columns(Backup.id).where(*chosen.conditions).subquery()
        async with self._sessions.statement() as session:
            return (await session.scalars(select(func.count()).select_from(chosen_ids))).one()

    async def get(self, backup_id: UUID) -> BackupState:
        """A backup."""
        async with self._sessions.statement() as session:
            return await self._state_of(session, backup_id, _with_job())

    async def stored(self, backup_id: UUID) -> Backup:
        """A backup that is stored."""
        state = await self.get(backup_id)
        if state.backup.stored_id is None:
            raise _not_stored(state)
        return state.backup

    async def mark_deleted(self, backup_id: UUID) -> Backup:
        """Record that a client has deleted a backup: from now on it is not listed, and cannot be used."""
        async with self._sessions.transaction() as session:
            backup = await self._deletable(session, backup_id)
            backup.deleted_at = UTC_NOW
            await session.flush()
            await session.refresh(backup)
            return backup

    async def leave(self, backup_id: UUID) -> Backup:
        """Remove the row of a backup that is to stay where it is stored; returns what the row had.

        Without the row, no pass takes it for one that is to be removed there.
        """
        async with self._sessions.transaction() as session:
            backup = await self._deletable(session, backup_id)
            await session.delete(backup)
            return backup

    async def _deletable(self, session: AsyncSession, backup_id: UUID) -> Backup:
        state = await self._locked(session, backup_id)
        if (restored := await restore_under_way(session, backup_id)) is not None:
            raise BackupRefusedError(
                state.status,
                f"The instance {restored.id}, '{restored.name}', is being restored from the backup.",
                "Wait until its job has ended, or cancel it.",
            )
        if state.needed:
            raise BackupRefusedError(
                state.status,
                "The database that the backup is of is about to be dropped.",
                f"Cancel that first: POST /v2/jobs/{state.backup.job_id}/cancel, or `ods job cancel"
                f" {state.backup.job_id}`; or wait until it is done.",
            )
        if await _may_be_all_that_is_left(session, state.backup):
            raise BackupRefusedError(
                state.status,
                "The database that the backup is of is in the trash, and may be half dropped: its purge has"
                " begun, and has not ended.",
                "Undelete the instance, and wait until it is Completed; or purge it again, until it is gone."
                " Then delete the backup.",
            )
        if state.status in JOB_UNDER_WAY:
            raise BackupRefusedError(
                state.status,
                "The backup is being made.",
                f"Cancel its job first: POST /v2/jobs/{state.backup.job_id}/cancel, or `ods job cancel"
                f" {state.backup.job_id}`.",
            )
        return state.backup

    async def forget(self, backup: Backup) -> None:
        """Remove the row of a deleted backup of which nothing is stored; the audit trail keeps that.

        If another session has locked it, the next pass does that.
        """
        path, title = f"/v2/backups/{backup.id}", f"Removed a backup of {backup.name}"
        entry = AuditEntry(
            "worker", self._tenant, "REMOVE", path, backup.instance_id, backup.job_id, HTTPStatus.OK, title
        )
        async with self._sessions.transaction() as session:
            its = unlocked(Backup.id == backup.id, Backup.deleted_at.is_not(None))
            gone = delete(Backup).where(Backup.id.in_(its))
            if await session.scalar(gone.returning(Backup.id)) is not None:
                await append(session, entry)

    async def deleted(self) -> Sequence[Backup]:
        """The backups that are deleted, and whose objects may not be removed yet."""
        return await self._all(Backup.deleted_at.is_not(None))

    async def knows(self, stored_id: UUID) -> bool:
        """Whether a backup is recorded as stored under this id."""
        query = select(Backup.id).where(Backup.stored_id == stored_id)
        async with self._sessions.statement() as session:
            return await session.scalar(query) is not None

    async def record_lost(self, lost: LostBackup, policy: VerifyPolicy) -> bool:
        """Record a stored backup that the registry does not know, so that it can be seen, used and deleted.

        There is no row of it, or its job has failed or is lost before it was recorded. If another try is
        recorded by now, this one becomes a backup of its own: its data are those of another moment.

        A final one, of which the database may be gone, is verified by the pass. So is a scheduled one, if any
        are: it may have been before. Its instance may also have been found unchanged since: it stays as if it
        was until the next one.

        Returns whether it is recorded: not if a job under way may do so, if a client has deleted the backup,
        or if the instance is none of this registry's.

        Raises:
            sqlalchemy.exc.DBAPIError: another session has locked the row of job or backup (SQLSTATE 55P03), …
        """
        async with self._sessions.transaction() as session:
            # A retry waits until this is committed; as all others, it locks the job first.
            its_job = select(Job.status).join(Backup, Job.job_id == Backup.job_id).where(Backup.id == lost.id)
            if await session.scalar(its_job.with_for_update(of=Job, nowait=True)) in JOB_UNDER_WAY:
                return False
            row = await session.get(Backup, lost.id, with_for_update={"nowait": True})
            if row is None:
                return await self._add_lost(session, lost, policy, lost.id, "")
            if (row.mark, row.installation) != (lost.mark, lost.installation) or row.deleted_at is not None:
                return False
            if row.stored_id == UUID(lost.stored.stored_id):  # the job has recorded it meanwhile
                return False
            if row.stored_id is not None:
                return await self._add_lost(session, lost, policy, UUID(lost.stored.stored_id), row.job_id)
            await session.execute(update(Backup).where(Backup.id == lost.id).values(_values(lost, policy)))
            return True

    async def _add_lost(
        self, session: AsyncSession, lost: LostBackup, policy: VerifyPolicy, backup_id: UUID, job_id: str
    ) -> bool:
        instance = await session.scalar(select(DbInstance).where(DbInstance.mark == lost.mark).limit(1))
        if instance is None:
            return False
        await give_details_back(session, instance, lost.details)
        session.add(
            Backup(
                id=backup_id,
                instance_id=instance.id,
                ods_instance_id=lost.ods_instance_id,
                mark=lost.mark,
                installation=lost.installation,
                name=lost.name,
                kind=lost.kind,
                job_id=job_id,
                template=lost.template or instance.database_template,
                created_at=without_zone(lost.stored.taken_at),
                details=lost.details,
                **_values(lost, policy),
            )
        )
        return True

    async def request_verification(self, backup_id: UUID) -> BackupState:
        """Record that a backup shall be verified, unless one is about to be already."""
        async with self._sessions.transaction() as session:
            state = await self._locked(session, backup_id)
            if state.backup.stored_id is None:
                raise _not_stored(state)
            if state.backup.verification not in VERIFICATION_UNDER_WAY:
                state.backup.verification, state.backup.verification_error = VERIFICATION_WAITS, None
            return state

    async def begin_verification(self, backup_id: UUID) -> Backup | None:
        """The backup, whose verification runs now; None if none is wanted any more."""
        wanted = Backup.verification.in_(VERIFICATION_UNDER_WAY)
        running = (
            update(Backup)
            .where(Backup.id == backup_id, wanted, Backup.deleted_at.is_(None))
            .values(verification=VERIFICATION_RUNS)
            .returning(Backup)
        )
        async with self._sessions.statement() as session:
            return (await session.scalars(running)).one_or_none()

    async def finish_verification(self, backup_id: UUID, error: str | None) -> None:
        """Record how a verification has ended."""
        ended = update(Backup).where(Backup.id == backup_id, Backup.verification == VERIFICATION_RUNS)
        async with self._sessions.statement() as session:
            await session.execute(ended.values(**_verdict(error)))

    async def waiting_verifications(self) -> Sequence[Backup]:
        """The backups whose verification waits or runs, but for those that their jobs verify."""
        wanted = Backup.verification.in_(VERIFICATION_UNDER_WAY)
        under_way = exists().where(Job.job_id == Backup.job_id, Job.status.in_(JOB_UNDER_WAY))
        return await self._all(and_(wanted, Backup.deleted_at.is_(None), ~under_way))

    async def made_by(self, installation: UUID) -> Sequence[Backup]:
        """The stored backups that an installation has made, and that are not deleted."""
        kept = (Backup.stored_id.is_not(None), Backup.deleted_at.is_(None))
        return await self._all(and_(Backup.installation == installation, *kept))

    async def record_gone(self, backup: Backup) -> bool:
        """Record that what is stored of a backup is gone, as a verification would that has failed.

        Returns whether it is recorded: not if it was verified meanwhile, or as for `_rewrite`.
        """
        same = Backup.verification.is_not_distinct_from(backup.verification)
        return await self._rewrite(backup, _verdict(_gone_from(backup)), same)

    async def record_moved(self, backup: Backup, location: str) -> None:
        """Record that a backup is stored in the folder `location` by now."""
        await self._rewrite(backup, {"location": location})

    async def record_back(self, backup: Backup, location: str) -> bool:
        """Record that a backup which was gone is stored again, and shall be verified.

        Returns whether it is recorded: not if it was verified meanwhile, or as for `_rewrite`.
        """
        same = (Backup.verification == VERIFICATION_FAILED, Backup.verification_error == _gone_from(backup))
        waits = {"verification": VERIFICATION_WAITS, "verification_error": None, "location": location}
        return await self._rewrite(backup, waits, *same)

    async def _rewrite(
        self, backup: Backup, values: Mapping[str, object], *same: ColumnElement[bool]
    ) -> bool:
        """Write to the row of a backup what a pass has found in the store; returns whether it is written.

        Not if the backup was deleted, stored anew or recorded elsewhere meanwhile, or if another session has
        locked its row.
        """
        its = unlocked(
            Backup.id == backup.id,
            Backup.stored_id == backup.stored_id,
            Backup.location == backup.location,
            Backup.deleted_at.is_(None),
            *same,
        )
        written = update(Backup).where(Backup.id.in_(its)).values(**values).returning(Backup.id)
        async with self._sessions.statement() as session:
            return await session.scalar(written) is not None

    async def final_of(self, job: InstanceJob) -> Backup | None:
        """The backup that this purge makes before it drops; None if a client has deleted it."""
        its = (
            Backup.id == UUID(job.makes_backup),
            Backup.job_id == job.job_id,
            Backup.mark == UUID(job.mark),
        )
        async with self._sessions.statement() as session:
            return await session.scalar(select(Backup).where(*its, Backup.deleted_at.is_(None)))

    async def finish_proof(self, backup: Backup, error: str | None) -> None:
        """Record how the verification by the purge that has made the backup has ended.

        Nothing is recorded if another one is stored by now. Nor is that it was passed if another verification
        has failed meanwhile; one that still runs goes on, and its verdict counts.

        The backup is as it was when the verification began.
        """
        its = [Backup.id == backup.id, Backup.stored_id == backup.stored_id]
        outcome = _verdict(error) | {"proven_id": None if error else backup.stored_id}
        if error is None:
            runs = Backup.verification == VERIFICATION_RUNS
            outcome["verification"] = case((runs, Backup.verification), else_=VERIFICATION_PASSED)
            if backup.verification != VERIFICATION_FAILED:
                its.append(Backup.verification.is_distinct_from(VERIFICATION_FAILED))
        ended = update(Backup).where(*its)
        async with self._sessions.statement() as session:
            await session.execute(ended.values(**outcome))

    async def _all(self, condition: ColumnElement[bool]) -> Sequence[Backup]:
        async with self._sessions.statement() as session:
            return (await session.scalars(select(Backup).where(condition).order_by(Backup.created_at))).all()

    async def _locked(self, session: AsyncSession, backup_id: UUID) -> BackupState:
        return await self._state_of(session, backup_id, _with_job().with_for_update(of=Backup))

    @staticmethod
    async def _state_of(session: AsyncSession, backup_id: UUID, rows: Select[Backup, Job]) -> BackupState:
        chosen = rows.where(Backup.id == backup_id, Backup.deleted_at.is_(None))
        row = (await session.execute(chosen)).one_or_none()
        if row is None:
            raise BackupNotFoundError(str(backup_id))
        return _state(*row)


def _values(lost: LostBackup, policy: VerifyPolicy) -> dict[str, Any]:
    """The columns of a backup that is recorded again."""
    if lost.kind != SCHEDULED:
        return stored_values(lost.stored, verify=lost.kind == FINAL)
    is_verified = policy is not VerifyPolicy.NEVER
    return {**stored_values(lost.stored, verify=is_verified), "unchanged_at": UNTIL_THE_NEXT}


async def _may_be_all_that_is_left(session: AsyncSession, backup: Backup) -> bool:
    """Whether this is a final backup that a purge has verified, so that its DROP may have begun.

    That ends when the database is known to be gone, or to have come back: not with the request for that. A
    registry that was restored to before the purge does not know whether that has verified it.
    """
    is_recorded_again = backup.kind == FINAL and not backup.job_id
    unfinished = exists().where(DbInstance.mark == backup.mark, DbInstance.has_database_in_trash)
    may_be_proven = backup.proven_id is not None or is_recorded_again
    return may_be_proven and bool(await session.scalar(select(unfinished)))


def proven_state(backup: Backup) -> str | None:
    """The state of the database that a final backup shows for sure; None if the database must not be dropped.

    The purge has verified what is stored, and no later verification has found it damaged.
    """
    is_proven = backup.stored_id is not None and backup.proven_id == backup.stored_id
    return backup.database_state if is_proven and backup.verification != VERIFICATION_FAILED else None


def is_recorded_gone(backup: Backup) -> bool:
    """Whether the last that is known of a backup is that it was gone from the store."""
    return backup.verification == VERIFICATION_FAILED and backup.verification_error == _gone_from(backup)


def _gone_from(backup: Backup) -> str:
    return f"It is gone from {backup.location}."


def _verdict(error: str | None) -> dict[str, object]:
    """The columns that tell how a verification has ended."""
    if error is None:
        return {"verification": VERIFICATION_PASSED, "verification_error": None, "verified_at": UTC_NOW}
    return {"verification": VERIFICATION_FAILED, "verification_error": error}


def _with_job() -> Select[Backup, Job]:
    return select(Backup, Job).outerjoin(Job, Job.job_id == Backup.job_id)


def _state(backup: Backup, job: Job | None) -> BackupState:
    if backup.stored_id is not None:
        needed = job is not None and job.status in JOB_UNDER_WAY
        return BackupState(backup, JobStatus.COMPLETED, needed=needed)
    if job is None:
        return BackupState(backup, JobStatus.ERROR, "The registry has lost the job of this backup.")
    if job.status == JobStatus.COMPLETED:  # a purge that has found no database
        return BackupState(backup, JobStatus.ERROR, "There was no database any more that could be backed up.")
    return BackupState(backup, job.status, job.error_message, job.percent, job.eta_seconds)


def _not_stored(state: BackupState) -> BackupRefusedError:
    return BackupRefusedError(
        state.status,
        f"A backup in state {state.status} is not stored.",
        "Wait until it is Completed, or make another one.",
    )
