"""Scheduled backups: of which instances one is due, and which are as they were when the last one was made."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JOB_UNDER_WAY, UNDER_WAY, InstanceStatus, Product, making
from ods.registry.backups.details import details_of
from ods.registry.backups.rows import (
    SCHEDULED,
    VERIFICATION_FAILED,
    wait_for_due_verification,
)
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.steps import JobFactory
from ods.registry.schedules.frequency import BACKUP_LABEL
from ods.registry.schedules.participants import is_credible, participants, serve
from ods.registry.storage.models import UTC_NOW, Backup, DbInstance, Job
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.settings import VerifyPolicy

IS_COMPLETE: ColumnElement[bool] = and_(
    Backup.stored_id.is_not(None),
    Backup.deleted_at.is_(None),
    Backup.verification.is_distinct_from(VERIFICATION_FAILED),
)
"""A backup from which its instance can be restored, as far as is known."""


@dataclass(frozen=True)
class LastBackup:
    """The last scheduled backup of an instance, whose database may still be as it was then."""

    backup: Backup
    database: str


class ScheduledBackups:
    """The scheduled backups of one tenant's instances, in the registry."""

    def __init__(self, engine: AsyncEngine, factory: JobFactory, policy: VerifyPolicy) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory
        self._policy = policy

    async def due(self, due_at: datetime) -> Sequence[int]:
        """The ids of the instances of which one is due at a time of the schedule, in UTC without a zone."""
        is_made = or_(IS_COMPLETE, Job.status.in_(JOB_UNDER_WAY))
        last_made = (
            select(func.max(Backup.due_at))
            .outerjoin(Job, Job.job_id == Backup.job_id)
            .where(
                Backup.instance_id == DbInstance.id,
                Backup.mark == DbInstance.mark,
                Backup.kind == SCHEDULED,
                Backup.deleted_at.is_(None),
                is_credible(Backup.due_at),
                is_made,
            )
            .correlate(DbInstance)
            .scalar_subquery()
        )
        async with self._sessions.statement() as session:
            return await participants(session, BACKUP_LABEL, last_made, due_at)

    async def under_way(self) -> Sequence[InstanceJob]:
        """The jobs that make such backups, at the attempt that is due or under way."""
        running = (
            select(DbInstance)
            .join(Backup, Backup.id == DbInstance.request)
            .where(
                Backup.kind == SCHEDULED,
                Backup.mark == DbInstance.mark,
                DbInstance.operation.in_(making(Product.BACKUP)),
                DbInstance.status.in_(UNDER_WAY),
            )
        )
        await self._factory.installation.state()
        async with self._sessions.statement() as session:
            return [self._factory.current_attempt(row) for row in await session.scalars(running)]

    async def last_complete(self, instance_id: int) -> LastBackup | None:
        """The last scheduled backup of an instance, if the instance may be as it was then.

        None if there is none, or it has no sign, has not passed its verification, or is not of the instance
        under its name and with its contexts, labels and description of now.
        """
        async with self._sessions.transaction() as session:
            instance = await session.get(DbInstance, instance_id)
            if instance is None or instance.status != InstanceStatus.COMPLETED:
                return None
            stored = (Backup.mark == instance.mark, Backup.kind == SCHEDULED, Backup.stored_id.is_not(None))
            newest = select(Backup).where(*stored).order_by(Backup.created_at.desc(), Backup.id).limit(1)
            backup = await session.scalar(newest)
            if backup is None or backup.deleted_at is not None or backup.change_sign is None:
                return None
            now = (instance.name, instance.database_template, await details_of(session, instance))
            is_same = now == (backup.name, backup.template, backup.details)
            is_whole = backup.verification != VERIFICATION_FAILED
            return LastBackup(backup, instance.database_name) if is_same and is_whole else None

    async def record_unchanged(self, instance_id: int, backup_id: UUID, due_at: datetime) -> bool:
        """Record that an instance needs no backup at a time of the schedule: its last one has the same data.

        That backup is kept as if it had been made again, and is verified again if that is due. Returns
        whether it could be recorded: not if the backup was deleted meanwhile or has not passed its
        verification, or a job works on the instance.

        Does not wait for the locks of other sessions.

        `due_at` is in UTC without a zone.

        Raises:
            sqlalchemy.exc.DBAPIError: another session has locked one of the rows (SQLSTATE 55P03), …
        """
        async with self._sessions.transaction() as session:
            instance = await session.get(DbInstance, instance_id, with_for_update={"nowait": True})
            backup = await session.get(Backup, backup_id, with_for_update={"nowait": True})
            if instance is None or instance.status != InstanceStatus.COMPLETED:
                return False
            if backup is None or backup.deleted_at is not None or backup.mark != instance.mark:
                return False
            if backup.verification == VERIFICATION_FAILED:
                return False
            await wait_for_due_verification(session, backup, self._policy)
            backup.unchanged_at = func.least(due_at, UTC_NOW)  # not ahead of it, if Temporal's clock is
            await serve(session, instance.id, BACKUP_LABEL, due_at)
            return True
