"""Scheduled snapshots: of which instances one is due, and which are being made."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import UNDER_WAY, Product, making
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.steps import JobFactory
from ods.registry.schedules.frequency import SNAPSHOT_LABEL
from ods.registry.schedules.participants import is_credible, participants
from ods.registry.snapshots.rows import IS_ABANDONED
from ods.registry.storage.models import DbInstance, Snapshot
from ods.registry.storage.sessions import RegistrySessions


class ScheduledSnapshots:
    """The scheduled snapshots of one tenant's instances, in the registry."""

    def __init__(self, engine: AsyncEngine, factory: JobFactory) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory

    async def due(self, due_at: datetime) -> Sequence[int]:
        """The ids of the instances of which one is due at a time of the schedule, in UTC without a zone."""
        last_made = (
            select(func.max(Snapshot.due_at))
            .where(Snapshot.instance_id == DbInstance.id, ~IS_ABANDONED, is_credible(Snapshot.due_at))
            .correlate(DbInstance)
            .scalar_subquery()
        )
        async with self._sessions.statement() as session:
            return await participants(session, SNAPSHOT_LABEL, last_made, due_at)

    async def under_way(self) -> Sequence[InstanceJob]:
        """The jobs that make such snapshots, at the attempt that is due or under way."""
        its = and_(Snapshot.instance_id == DbInstance.id, Snapshot.job_number == DbInstance.job_number)
        running = (
            select(DbInstance)
            .join(Snapshot, its)
            .where(
                Snapshot.due_at.is_not(None),
                DbInstance.operation.in_(making(Product.SNAPSHOT)),
                DbInstance.status.in_(UNDER_WAY),
            )
        )
        await self._factory.installation.state()
        async with self._sessions.statement() as session:
            return [self._factory.current_attempt(row) for row in await session.scalars(running)]
