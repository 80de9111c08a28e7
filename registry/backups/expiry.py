"""Which scheduled backups have expired, and may be deleted."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import aliased

from registry.backups.retention import Covered, expiries
from registry.backups.rows import SCHEDULED, VERIFICATION_FAILED, restore_under_way
from registry.installation import InstallationStore
from registry.storage.models import UTC_NOW, Backup, DbInstance
from registry.storage.sessions import RegistrySessions
from schedule_settings import KeptBackups

_IS_KEPT = and_(Backup.kind == SCHEDULED, Backup.stored_id.is_not(None), Backup.deleted_at.is_(None))
_newer = aliased(Backup)
# Of the same instance, in any kind: what was made by request can be restored as well.
_IS_NEWER_AND_COMPLETE = and_(
    _newer.mark == Backup.mark,
    _newer.created_at > Backup.created_at,
    _newer.stored_id.is_not(None),
    _newer.deleted_at.is_(None),
    _newer.verification.is_distinct_from(VERIFICATION_FAILED),
)
_HAS_INSTANCE = (
    exists()
    .where(DbInstance.mark == Backup.mark, or_(DbInstance.is_live, DbInstance.is_in_trash))
    .correlate(Backup)
)
_HAS_NEWER = exists().where(_IS_NEWER_AND_COMPLETE).correlate(Backup)


class BackupExpiry:
    """Computes when a tenant's scheduled backups expire, and deletes them.

    Args:
        engine: the connections to the tenant's registry.
        installation: what others have made is theirs to delete.
        kept: how many of an instance stay; None: all.
    """

    def __init__(
        self, engine: AsyncEngine, installation: InstallationStore, kept: KeptBackups | None
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._installation = installation
        self._kept = kept

    async def compute(self) -> None:
        """Write to each scheduled backup when it expires, as the setting says now. Safe to repeat."""
        wanted = (Backup.id, Backup.mark, Backup.created_at, Backup.unchanged_at, Backup.expires_at)
        kept = select(*wanted).where(_IS_KEPT).order_by(Backup.mark, Backup.created_at, Backup.id)
        async with self._sessions.statement() as session:
            rows = (await session.execute(kept)).all()
            for _, its in groupby(rows, key=attrgetter("mark")):
                backups = list(its)
                # A time of the schedule that is served late may be before the backup.
                ends = [max(it.created_at, it.unchanged_at or it.created_at) for it in backups]
                covered = [Covered(it.created_at, end) for it, end in zip(backups, ends, strict=True)]
                for backup, expiry in zip(backups, self._expiries(covered), strict=True):
                    if backup.expires_at != expiry:
                        row = update(Backup).where(Backup.id == backup.id)
                        await session.execute(row.values(expires_at=expiry))

    def _expiries(self, backups: Sequence[Covered]) -> Sequence[datetime | None]:
        return [None] * len(backups) if self._kept is None else expiries(backups, self._kept)

    async def due(self, limit: int) -> Sequence[Backup]:
        """Up to `limit` backups that have expired, the oldest first.

        Not the last complete one of an instance that is there, be it in the trash.
        """
        async with self._sessions.statement() as session:
            query = select(Backup).where(*await self._conditions()).order_by(Backup.expires_at, Backup.id)
            return (await session.scalars(query.limit(limit))).all()

    async def delete(self, backup_id: UUID) -> bool:
        """Record that a backup is deleted, if it has still expired; what is stored is for `BackupCleaning`.

        Not while an instance is being restored from it.
        """
        conditions = await self._conditions()
        async with self._sessions.transaction() as session:
            its = select(Backup).where(Backup.id == backup_id, *conditions)
            backup = await session.scalar(its.with_for_update(of=Backup))
            if backup is None or await restore_under_way(session, backup_id) is not None:
                return False
            # That one must stay until this is committed; a client may delete it afterwards.
            survivor = select(_newer.id).join(Backup, Backup.id == backup_id).where(_IS_NEWER_AND_COMPLETE)
            newest = (
                survivor.order_by(_newer.created_at.desc()).limit(1).with_for_update(read=True, of=_newer)
            )
            is_there = exists().where(Backup.id == backup_id, _HAS_INSTANCE)
            if await session.scalar(newest) is None and await session.scalar(select(is_there)):
                return False
            backup.deleted_at = UTC_NOW
            return True

    async def _conditions(self) -> Sequence[ColumnElement[bool]]:
        own = UUID((await self._installation.require_confirmed()).id)
        has_expired = Backup.expires_at <= UTC_NOW
        return (_IS_KEPT, has_expired, Backup.installation == own, or_(_HAS_NEWER, ~_HAS_INSTANCE))
