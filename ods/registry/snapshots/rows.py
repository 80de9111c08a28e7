"""What the jobs and deletes of instances write about snapshots, each within the transaction of its caller.

The caller has locked the row of the instance, so that these writes follow one another.

The derivative `Snapshot` of an ODS instance leads the ODS/API to a snapshot. It is ours while its connection
string is, letter for letter, the one that the last snapshot of the instance was recorded with. What another
product or the operator has written there is never changed.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.operations import UNDER_WAY, Product, making
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import snapshot_name
from ods.registry.storage.errors import DerivativeTakenError
from ods.registry.storage.models import UTC_NOW, DbInstance, OdsInstance, OdsInstanceDerivative, Snapshot


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
    await remove_derivative(session, ods_instance_id, is_own_derivative(instance_id))
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


DERIVATIVE_TYPE = "Snapshot"
"""As the ODS/API spells it."""


def is_own_derivative(instance_id: int) -> ColumnElement[bool]:
    """Whether a derivative leads to a snapshot that this service has made of the instance."""
    own = select(Snapshot.connection_string).where(
        Snapshot.instance_id == instance_id, Snapshot.connection_string.is_not(None)
    )
    return OdsInstanceDerivative.connection_string.in_(own)


async def require_own_derivative(session: AsyncSession, instance_id: int, ods_instance_id: int) -> None:
    """Check that the ODS instance has no derivative `Snapshot` that leads elsewhere."""
    foreign = select(OdsInstanceDerivative.id).where(
        *_of(ods_instance_id), is_own_derivative(instance_id).is_not(True)
    )
    if (found := await session.scalar(foreign.limit(1))) is not None:
        raise DerivativeTakenError(found)


async def switch_derivative(
    session: AsyncSession, instance_id: int, ods_instance_id: int, connection_string: str
) -> None:
    """Have the ODS/API read another snapshot from now on.

    Raises:
        DerivativeTakenError: the derivative leads to a database that is no snapshot of the instance; or the
            ODS instance was removed.
    """
    # From here on no other session adds a derivative.
    if await session.get(OdsInstance, ods_instance_id, with_for_update={"key_share": True}) is None:
        raise DerivativeTakenError
    await require_own_derivative(session, instance_id, ods_instance_id)
    its = update(OdsInstanceDerivative).where(*_of(ods_instance_id))
    values = {"connection_string": connection_string, "derivative_type": DERIVATIVE_TYPE}
    switched = await session.scalars(its.values(values).returning(OdsInstanceDerivative.id))
    if not switched.all():
        session.add(OdsInstanceDerivative(ods_instance_id=ods_instance_id, **values))


async def remove_derivative(session: AsyncSession, ods_instance_id: int, which: ColumnElement[bool]) -> None:
    """Remove the derivative `Snapshot` of the ODS instance, if `which` holds of it."""
    await session.execute(delete(OdsInstanceDerivative).where(*_of(ods_instance_id), which))


def _of(ods_instance_id: int) -> tuple[ColumnElement[bool], ...]:
    return (
        OdsInstanceDerivative.ods_instance_id == ods_instance_id,
        func.lower(OdsInstanceDerivative.derivative_type) == DERIVATIVE_TYPE.lower(),
    )
