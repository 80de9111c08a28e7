"""Which scheduled backups have expired, and may be deleted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    Row,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased

from ods.model.operations import InstanceStatus
from ods.registry.backups.retention import Covered, expiries
from ods.registry.backups.rows import (
    SCHEDULED,
    UNTIL_THE_NEXT,
    VERIFICATION_FAILED,
    VERIFICATION_PASSED,
    VERIFICATION_UNDER_WAY,
    restore_under_way,
    unlocked,
)
from ods.registry.installation import InstallationStore
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.registry.storage.models import UTC_NOW, Backup, DbInstance
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.schedule_settings import KeptBackups
from ods.settings.settings import VerifyPolicy

_NUMBER = r"-(\d{1,9})$"
"""What the id of a job ends with: how many jobs of its instance there were."""
_IS_KEPT = and_(Backup.kind == SCHEDULED, Backup.stored_id.is_not(None), Backup.deleted_at.is_(None))
_newer = aliased(Backup)
_KEPT_AFTER_INSTANCE = timedelta(days=90)
"""How long the last complete backup of an instance stays at least when that has ended.

Long enough for a delete that was wrong, or of an instance whose database was lost, to be noticed.
"""
_INSTANCE_IS_GONE = (
    DbInstance.mark == Backup.mark,
    DbInstance.status == InstanceStatus.DELETED,
    not_(DbInstance.is_in_trash),
)
_INSTANCE_IS_LONG_GONE = (
    exists()
    .where(
        *_INSTANCE_IS_GONE,
        DbInstance.last_modified < UTC_NOW - literal(_KEPT_AFTER_INSTANCE, Interval),
    )
    .correlate(Backup)
)
"""Not of an instance without a row: the registry was restored to before its create, and cannot tell."""


def _is_later() -> ColumnElement[bool]:
    """Whether `_newer` was requested after `Backup`, of the same instance.

    By the numbers of their jobs: of what was made while the clock was ahead, the time is later for as long.
    What the pass has recorded may be of no job; of such a one the moment counts whose data it has. Of what
    two tries of one job have stored, neither is later.
    """
    newer, older = (cast(func.substring(it.job_id, _NUMBER), Integer) for it in (_newer, Backup))
    return func.coalesce(newer > older, _newer.taken_at > Backup.taken_at)


def _survives(policy: VerifyPolicy) -> ColumnElement[bool]:
    """Whether `_newer` is one for which `Backup` may go, of the same instance and of whichever kind.

    Not while its verification waits or runs, for it may fail; nor, if backups are verified, one that is not
    to be verified for one that ever passed: a later verdict on that may be wrong, as when the disk was full.
    Nor what the pass has found in the store, of no job that the registry knows: it may be of a copy of this
    registry that was stopped, and has data of its own.
    """
    is_unverified: ColumnElement[bool] = _newer.verification.is_(None)
    match policy:
        case VerifyPolicy.ALWAYS | VerifyPolicy.WEEKLY:
            # One that is about to be verified may have been before the registry was restored.
            has_verdict = func.coalesce(
                Backup.verification.not_in(VERIFICATION_UNDER_WAY), literal(value=True)
            )
            is_unverified = and_(is_unverified, Backup.verified_at.is_(None), has_verdict)
        case VerifyPolicy.NEVER:
            pass
        case _:
            assert_never(policy)
    return and_(
        _newer.mark == Backup.mark,
        _is_later(),
        _newer.job_id != "",
        _newer.stored_id.is_not(None),
        _newer.deleted_at.is_(None),
        or_(_newer.verification == VERIFICATION_PASSED, is_unverified),
    )


@dataclass(frozen=True)
class ExpiredBackup:
    """A backup that has expired."""

    backup: Backup
    needs_survivor: bool


class BackupExpiry:
    """Computes when a tenant's scheduled backups expire, and deletes them.

    `kept` says how many of an instance stay; None: all. What other installations have made is theirs to
    delete.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        installation: InstallationStore,
        kept: KeptBackups | None,
        policy: VerifyPolicy,
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._installation = installation
        self._kept = kept
        self._survives = _survives(policy)

    async def compute(self) -> Collection[UUID]:
        """Write to each scheduled backup when it expires, as the setting says now. Safe to repeat.

        Returns those to which it was not written, as another session has locked them: they expire later than
        is recorded, or earlier.
        """
        unwritten = set()
        times = (Backup.created_at, Backup.unchanged_at, Backup.expires_at, Backup.kept_until)
        is_damaged = Backup.verification.is_not_distinct_from(VERIFICATION_FAILED).label("damaged")
        is_of_job = (Backup.job_id != "").label("is_of_job")
        ended = select(func.max(DbInstance.last_modified)).where(*_INSTANCE_IS_GONE).correlate(Backup)
        wanted = (Backup.id, Backup.mark, *times, is_damaged, is_of_job, ended.label("ended_at"))
        kept = select(*wanted).where(_IS_KEPT).order_by(Backup.mark, Backup.created_at, Backup.id)
        async with self._sessions.statement() as session:
            rows = (await session.execute(kept)).all()
            for _, its in groupby(rows, key=attrgetter("mark")):
                backups = list(its)
                changes = _changes(backups)
                covered = [_covered(it, changed) for it, changed in zip(backups, changes, strict=True)]
                for backup, changed, computed in zip(backups, changes, self._expiries(covered), strict=True):
                    is_known = changed is not None or backup.unchanged_at != UNTIL_THE_NEXT
                    expiry = _not_before(backup.kept_until, computed) if is_known else None
                    if backup.expires_at != expiry:
                        row = update(Backup).where(Backup.id.in_(unlocked(Backup.id == backup.id)))
                        written = row.values(expires_at=expiry).returning(Backup.id)
                        if await session.scalar(written) is None:
                            unwritten.add(backup.id)
        return unwritten

    def _expiries(self, backups: Sequence[Covered]) -> Sequence[datetime | None]:
        return [None] * len(backups) if self._kept is None else expiries(backups, self._kept)

    async def due(self) -> Sequence[ExpiredBackup]:
        """The backups that have expired, the oldest first.

        Not one without a survivor, unless its instance was deleted for good long ago.
        """
        has_survivor = exists().where(self._survives).correlate(Backup)
        query = select(Backup, not_(_INSTANCE_IS_LONG_GONE)).where(*await self._conditions())
        due = query.where(or_(has_survivor, _INSTANCE_IS_LONG_GONE)).order_by(Backup.expires_at, Backup.id)
        async with self._sessions.statement() as session:
            return [ExpiredBackup(*row) for row in (await session.execute(due)).all()]

    async def survivors(self, backup_id: UUID) -> Sequence[Backup]:
        """The later backups of the same instance for which this one may go, the latest first."""
        async with self._sessions.statement() as session:
            return (await session.scalars(self._survivors(backup_id))).all()

    async def delete(self, backup_id: UUID, survivor_id: UUID | None) -> bool:
        """Record that a backup is deleted, if it has still expired; what is stored is for `BackupCleaning`.

        Not while an instance is being restored from it, nor for a while after that has failed; nor while
        another session has locked the row of one of the two.

        `survivor_id` is one of its survivors, which is stored; None if its instance has long been gone.
        """
        conditions = await self._conditions()
        async with self._sessions.transaction() as session:
            its = select(Backup).where(Backup.id == backup_id, *conditions)
            backup = await session.scalar(its.with_for_update(of=Backup, skip_locked=True))
            if backup is None or await restore_under_way(session, backup_id) is not None:
                return False
            if not await self._may_go(session, backup_id, survivor_id):
                return False
            backup.deleted_at = UTC_NOW
            return True

    async def _may_go(self, session: AsyncSession, backup_id: UUID, survivor_id: UUID | None) -> bool:
        if survivor_id is None:
            may_go = exists().where(Backup.id == backup_id, _INSTANCE_IS_LONG_GONE)
            return bool(await session.scalar(select(may_go)))
        # It must stay until this is committed; a client may delete it afterwards.
        survivor = self._survivors(backup_id).where(_newer.id == survivor_id)
        return (
            await session.scalar(survivor.with_for_update(read=True, of=_newer, skip_locked=True)) is not None
        )

    def _survivors(self, backup_id: UUID) -> Select[Backup]:
        later = select(_newer).join(Backup, Backup.id == backup_id).where(self._survives)
        return later.order_by(_newer.created_at.desc(), _newer.id)

    async def _conditions(self) -> Sequence[ColumnElement[bool]]:
        own = UUID((await self._installation.require_confirmed()).id)
        # A pass may have computed the one before the other was recorded.
        has_expired = func.greatest(Backup.expires_at, Backup.kept_until) <= UTC_NOW
        return (_IS_KEPT, Backup.expires_at.is_not(None), has_expired, Backup.installation == own)


async def keep_scheduled_backups(session: AsyncSession) -> None:
    """Let no scheduled backup expire for a while: the clock by which their times were recorded was wrong.

    That of an instance that has ended may be all that is left of it, and stays as if it had ended now.
    """
    has_ended = exists().where(*_INSTANCE_IS_GONE).correlate(Backup)
    kept_for = case(
        (has_ended, literal(_KEPT_AFTER_INSTANCE, Interval)), else_=literal(KEPT_IN_DOUBT, Interval)
    )
    until = func.greatest(Backup.kept_until, UTC_NOW + kept_for)
    await session.execute(update(Backup).where(_IS_KEPT).values(kept_until=until))


def _not_before(earliest: datetime | None, expiry: datetime | None) -> datetime | None:
    return expiry if earliest is None or expiry is None else max(earliest, expiry)


def _changes(backups: Sequence[Row[*tuple[Any, ...]]]) -> list[datetime | None]:
    """When the instance had other data than those of each backup at the latest: when the next one was made.

    Or when the instance ended, after the last one; None if neither is known. What the pass has found in the
    store tells nothing: it may be of a copy of this registry that was stopped, whose data the instance never
    had.
    """
    changes: list[datetime | None] = []
    latest = backups[-1].ended_at
    for backup in reversed(backups):
        changes.append(latest)
        latest = backup.created_at if backup.is_of_job else latest
    return changes[::-1]


def _covered(backup: Row[*tuple[Any, ...]], changed_at: datetime | None) -> Covered:
    """When an instance had the data of a backup: until it was last found unchanged, before the next one.

    A time of the schedule that is served late may be before the backup. One that was served while a clock was
    ahead may be after the next one: it has taken the place of the right one, which may be as late as that. So
    is `UNTIL_THE_NEXT`.
    """
    since, until = backup.created_at, max(backup.created_at, backup.unchanged_at or backup.created_at)
    if changed_at is None or until <= changed_at:
        return Covered(since, until, next_stays=backup.damaged)
    return Covered(since, max(since, changed_at), next_stays=True)
