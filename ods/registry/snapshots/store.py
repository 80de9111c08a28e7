"""Snapshots of one tenant's instances: what clients and the jobs of instances do with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.operations import UNDER_WAY, Product, making
from ods.registry.installation import InstallationStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.steps import JobFactory, fencing_token, take_step
from ods.registry.ods_api_cache import CACHED
from ods.registry.schedules.frequency import SNAPSHOT_LABEL
from ods.registry.schedules.participants import is_credible, participants
from ods.registry.snapshots.rows import (
    IS_ABANDONED,
    SnapshotStatus,
    of_job,
    remove_derivative,
    switch_derivative,
)
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError, RowNotFoundError
from ods.registry.storage.models import UTC_NOW, DbInstance, OdsInstanceDerivative, Snapshot
from ods.registry.storage.sessions import RegistrySessions

SNAPSHOT = "snapshot"
"""What clients call a snapshot."""
LONGEST_USE = timedelta(hours=1)
"""How long sessions may keep a copy from being dropped when no cache of the ODS/API leads to it any more."""

_IS_DUE = or_(IS_ABANDONED, (Snapshot.status == SnapshotStatus.REMOVING) & (Snapshot.remove_after <= UTC_NOW))


@dataclass(frozen=True)
class ListedSnapshot:
    """A snapshot, as clients see it; `before_reset`: of another database than the instance has now."""

    snapshot: Snapshot
    ods_instance_id: int
    current: bool
    before_reset: bool


@dataclass(frozen=True)
class SnapshotRemoval:
    """A snapshot whose database is to be dropped; `by_force`, together with the sessions that use it."""

    id: int
    database: str
    mark: str
    instance_mark: str
    ods_instance_id: int
    by_force: bool


class SnapshotStore:
    """The snapshots of one tenant's instances, in the registry, of which `keep` of an instance stay."""

    def __init__(self, engine: AsyncEngine, installation: InstallationStore, keep: int) -> None:
        self._sessions = RegistrySessions(engine)
        self._installation = installation
        self._keep = keep

    async def instance_id(self, ods_instance_id: int) -> int | None:
        """The id of the live instance with this OdsInstanceId; None if there is none."""
        async with self._sessions.statement() as session:
            return await session.scalar(
                select(DbInstance.id).where(DbInstance.ods_instance_id == ods_instance_id, DbInstance.is_live)
            )

    async def snapshots_of(self, instance_id: int) -> Sequence[ListedSnapshot]:
        """The snapshots of an instance, the newest first."""
        query = (
            select(
                Snapshot,
                DbInstance.ods_instance_id,
                exists().where(OdsInstanceDerivative.connection_string == Snapshot.connection_string),
                Snapshot.database_id != DbInstance.database_id,
            )
            .join(DbInstance, DbInstance.id == Snapshot.instance_id)
            .where(Snapshot.instance_id == instance_id)
            .order_by(Snapshot.id.desc())
        )
        async with self._sessions.statement() as session:
            return [ListedSnapshot(*row) for row in (await session.execute(query)).all()]

    async def request_removal(self, instance_id: int, snapshot_id: int) -> None:
        """Record that a snapshot shall go; if it is the one that the ODS/API reads, that reads none then.

        Raises:
            RowNotFoundError: it has no such snapshot.
        """
        await self._installation.require_confirmed()
        async with self._sessions.transaction() as session:
            # Jobs of the instance lock its row first.
            instance = await session.get(DbInstance, instance_id, with_for_update=True)
            if instance is None or not instance.is_live:
                raise InstanceNotFoundError(instance_id)
            snapshot = await session.get(Snapshot, snapshot_id)
            if snapshot is None or snapshot.instance_id != instance.id:
                raise RowNotFoundError(SNAPSHOT, snapshot_id)
            if snapshot.status == SnapshotStatus.CREATING:
                raise RefusedError(
                    snapshot.status,
                    "The snapshot is being made.",
                    "Wait for its job, or cancel that (POST /v2/jobs/{id}/cancel).",
                )
            its = OdsInstanceDerivative.connection_string == snapshot.connection_string
            await remove_derivative(session, instance.ods_instance_id, its)
            if snapshot.status == SnapshotStatus.COMPLETED:
                snapshot.status, snapshot.remove_after = SnapshotStatus.REMOVING, _when_not_cached()

    async def of_job(self, job: InstanceJob) -> Snapshot | None:
        """The snapshot that `job` makes, or has made; None if it is gone."""
        async with self._sessions.statement() as session:
            return await session.scalar(select(Snapshot).where(*of_job(job)))

    async def is_done(self, job: InstanceJob) -> bool:
        """Whether the snapshot of `job` was recorded as whole."""
        return await self._sessions.finds(_done(job))

    async def finish(self, job: InstanceJob, connection_string: str) -> bool:
        """Record the snapshot of `job` as whole, have the ODS/API read it, and let the oldest ones go.

        Safe to repeat. Returns whether the instance was the job's to finish, and the job a snapshot. The
        encrypted `connection_string` leads to the copy.

        Raises:
            DerivativeTakenError: the derivative of the ODS instance leads to another database.
        """
        if job.rules.makes is not Product.SNAPSHOT:
            return False
        guard = fencing_token(job)
        async with self._sessions.transaction() as session:
            if not await take_step(session, job, job.rules.finish, {}, guard):
                return await session.scalar(_done(job)) is not None
            await switch_derivative(session, job.instance_id, job.ods_instance_id, connection_string)
            its = update(Snapshot).where(Snapshot.instance_id == job.instance_id)
            await session.execute(its.values(connection_string=None))
            await session.execute(
                its.where(*of_job(job)).values(
                    status=SnapshotStatus.COMPLETED, connection_string=connection_string
                )
            )
            await self._retire_oldest(session, job.instance_id)
            return True

    async def _retire_oldest(self, session: AsyncSession, instance_id: int) -> None:
        its = (Snapshot.instance_id == instance_id, Snapshot.status == SnapshotStatus.COMPLETED)
        oldest = select(Snapshot.id).where(*its).order_by(Snapshot.id.desc()).offset(self._keep)
        await session.execute(
            update(Snapshot)
            .where(Snapshot.id.in_(oldest))
            .values(status=SnapshotStatus.REMOVING, remove_after=_when_not_cached())
        )

    async def due_removals(self, limit: int) -> Sequence[SnapshotRemoval]:
        """Up to `limit` snapshots whose databases can go; in any order, so that none hinders the others."""
        return await self._removals(_removals().order_by(func.random()).limit(limit))

    async def abandoned(self, job: InstanceJob) -> SnapshotRemoval | None:
        """The snapshot that `job` was to make, if it has ended without having recorded it."""
        return next(iter(await self._removals(_removals().where(*of_job(job), IS_ABANDONED))), None)

    async def _removals(self, query: Select[int, str, str, str, int, bool]) -> Sequence[SnapshotRemoval]:
        async with self._sessions.statement() as session:
            return [SnapshotRemoval(*row) for row in (await session.execute(query)).all()]

    async def is_due(self, removal: SnapshotRemoval) -> bool:
        """Whether that snapshot can still go: the job that was to make it may have begun again."""
        return await self._sessions.finds(select(Snapshot.id).where(Snapshot.id == removal.id, _IS_DUE))

    async def forget(self, removal: SnapshotRemoval) -> None:
        """Remove the row of a snapshot whose database is gone, unless its job has begun again.

        If another session has locked the row of the instance, the next pass does it: the snapshot is still
        due.
        """
        async with self._sessions.transaction() as session:
            snapshot = await session.get(Snapshot, removal.id)
            if snapshot is None:
                return
            # A job that begins locks this row first.
            its = select(DbInstance.id).where(DbInstance.id == snapshot.instance_id)
            if await session.scalar(its.with_for_update(skip_locked=True)) is None:
                return
            still_due = select(Snapshot.id).where(Snapshot.id == removal.id, _IS_DUE)
            if await session.scalar(still_due.with_for_update(of=Snapshot, skip_locked=True)):
                await session.delete(snapshot)


def _done(job: InstanceJob) -> Select[int]:
    return select(Snapshot.id).where(*of_job(job), Snapshot.status != SnapshotStatus.CREATING)


def _when_not_cached() -> ColumnElement[datetime]:
    """When no cache of the ODS/API can lead to a copy any more."""
    return UTC_NOW + literal(CACHED, Interval)


def _removals() -> Select[int, str, str, str, int, bool]:
    ends = Snapshot.remove_after + literal(LONGEST_USE, Interval)
    return (
        select(
            Snapshot.id,
            Snapshot.database_name,
            cast(Snapshot.mark, Text).label("own_mark"),
            cast(DbInstance.mark, Text).label("instance_mark"),
            DbInstance.ods_instance_id,
            or_(Snapshot.remove_after.is_(None), ends <= UTC_NOW),
        )
        .join(DbInstance, DbInstance.id == Snapshot.instance_id)
        .where(_IS_DUE)
    )


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
