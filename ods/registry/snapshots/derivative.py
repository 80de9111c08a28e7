"""The derivative `Snapshot` of an ODS instance: which snapshot the ODS/API reads.

It is ours while its connection string is, letter for letter, the one that the last snapshot of the instance
was recorded with. What another product or the operator has written there is never changed.
"""

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.storage.errors import DerivativeTakenError
from ods.registry.storage.models import OdsInstance, OdsInstanceDerivative, Snapshot

DERIVATIVE_TYPE = "Snapshot"
"""As the ODS/API spells it."""


def is_own(instance_id: int) -> ColumnElement[bool]:
    """Whether a derivative leads to a snapshot that this service has made of the instance."""
    own = select(Snapshot.connection_string).where(
        Snapshot.instance_id == instance_id, Snapshot.connection_string.is_not(None)
    )
    return OdsInstanceDerivative.connection_string.in_(own)


async def require_own(session: AsyncSession, instance_id: int, ods_instance_id: int) -> None:
    """Check that the ODS instance has no derivative `Snapshot` that leads elsewhere."""
    foreign = select(OdsInstanceDerivative.id).where(*_of(ods_instance_id), is_own(instance_id).is_not(True))
    if (found := await session.scalar(foreign.limit(1))) is not None:
        raise DerivativeTakenError(found)


async def switch(
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
    await require_own(session, instance_id, ods_instance_id)
    its = update(OdsInstanceDerivative).where(*_of(ods_instance_id))
    values = {"connection_string": connection_string, "derivative_type": DERIVATIVE_TYPE}
    switched = await session.scalars(its.values(values).returning(OdsInstanceDerivative.id))
    if not switched.all():
        session.add(OdsInstanceDerivative(ods_instance_id=ods_instance_id, **values))


async def remove(session: AsyncSession, ods_instance_id: int, which: ColumnElement[bool]) -> None:
    """Remove the derivative `Snapshot` of the ODS instance, if `which` holds of it."""
    await session.execute(delete(OdsInstanceDerivative).where(*_of(ods_instance_id), which))


def _of(ods_instance_id: int) -> tuple[ColumnElement[bool], ...]:
    return (
        OdsInstanceDerivative.ods_instance_id == ods_instance_id,
        func.lower(OdsInstanceDerivative.derivative_type) == DERIVATIVE_TYPE.lower(),
    )
