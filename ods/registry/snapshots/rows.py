"""What the jobs and deletes of instances write about snapshots, each within the transaction of its caller.

The caller has locked the row of the instance, so that these writes follow one another.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.operations import UNDER_WAY, Product, making
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import snapshot_name
from ods.registry.snapshots import derivative
from ods.registry.storage.models import UTC_NOW, DbInstance, Snapshot


class SnapshotStatus(StrEnum):
    """Statuses of `adminapi.snapshots`, in the table and on the wire."""

    CREATING = "Creating"
    COMPLETED = "Completed"
    REMOVING = "Removing"


IS_ABANDONED = and_(
    Snapshot.status == SnapshotStatus.CREATING,
    ~exists()
    .where(
        DbInstance.id == Snapshot.instance_id,
        DbInstance.operation.in_(making(Product.SNAPSHOT)),
        DbInstance.job_number == Snapshot.job_number,
        DbInstance.status.in_(UNDER_WAY),
    )
    .correlate(Snapshot),
)
"""The job that was to make it has ended, however, without having recorded it."""


async def add(
    session: AsyncSession, instance: DbInstance, by: str | None, due_at: datetime | None = None
) -> Snapshot:
    """Record the snapshot that the new job is to make; `due_at` is in UTC without a zone."""
    snapshot = Snapshot(
        instance_id=instance.id,
        job_number=instance.job_number,
        database_name=await _free_name(session, instance.database_name),
        status=SnapshotStatus.CREATING,
        created_at=UTC_NOW,
        created_by=by,
        database_id=instance.database_id,
        due_at=due_at,
    )
    session.add(snapshot)
    await session.flush()
    await session.refresh(snapshot)
    return snapshot


async def ensure(session: AsyncSession, job: InstanceJob) -> None:
    """Record the snapshot of a job that begins again, if what its failure left is removed already."""
    instance = await session.get_one(DbInstance, job.instance_id)
    if await session.scalar(select(Snapshot.id).where(*of_job(job))) is None:
        await add(session, instance, None)


def of_job(job: InstanceJob) -> tuple[ColumnElement[bool], ...]:
    """The row of the snapshot that `job` makes."""
    return (Snapshot.instance_id == job.instance_id, Snapshot.job_number == job.number)


async def retire_all(session: AsyncSession, instance_id: int, ods_instance_id: int) -> None:
    """Let all snapshots of a deleted instance go, and the derivative that leads to one."""
    await derivative.remove(session, ods_instance_id, derivative.is_own(instance_id))
    its = (Snapshot.instance_id == instance_id, Snapshot.status == SnapshotStatus.COMPLETED)
    await session.execute(
        update(Snapshot).where(*its).values(status=SnapshotStatus.REMOVING, remove_after=UTC_NOW)
    )


async def _free_name(session: AsyncSession, database: str) -> str:
    """A name that no snapshot of the registry has: two may be requested within one second."""
    at = datetime.now(UTC)
    while await session.scalar(
        select(Snapshot.id).where(Snapshot.database_name == snapshot_name(database, at)).limit(1)
    ):
        at += timedelta(seconds=1)
    return snapshot_name(database, at)
