"""Names of databases that instances have left: for a while, no other instance can have them.

The ODS/API may have a connection string with such a name in its cache. Clients of the instance that had it
would write into the database of another instance that gets it too soon.
"""

from datetime import timedelta

from sqlalchemy import (
    Interval,
    ScalarSelect,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.ods_api_cache import CACHED
from ods.registry.storage.models import UTC_NOW, DbInstance, LeftDatabaseName


async def leave_name(session: AsyncSession, instance_id: int, left: str, new: str) -> None:
    """Record that an instance has `left` a name of its database for a new one; forget what is over.

    What another session forgets is left to that: no rename waits for another one's end.
    """
    its = LeftDatabaseName.instance_id == instance_id
    is_over = LeftDatabaseName.left_at + literal(CACHED, Interval) <= UTC_NOW
    is_replaced = its & LeftDatabaseName.database_name.in_([left, new])
    row = tuple_(LeftDatabaseName.database_name, LeftDatabaseName.instance_id)
    over = select(LeftDatabaseName.database_name, LeftDatabaseName.instance_id).where(is_over)
    forgotten = row.in_(over.with_for_update(skip_locked=True))
    await session.execute(delete(LeftDatabaseName).where(or_(forgotten, is_replaced)))
    if left != new:
        values = {"database_name": left, "instance_id": instance_id, "left_at": UTC_NOW}
        await session.execute(insert(LeftDatabaseName).values(values))


def reserved_for(database: str, excluding: DbInstance | None) -> ScalarSelect[timedelta]:
    """How long an instance other than `excluding` still reserves the name; null if none has left it.

    Not positive if that is over.
    """
    remaining = func.max(LeftDatabaseName.left_at) + literal(CACHED, Interval) - UTC_NOW
    query = select(type_coerce(remaining, Interval)).where(LeftDatabaseName.database_name == database)
    if excluding is not None:
        query = query.where(LeftDatabaseName.instance_id != excluding.id)
    return query.scalar_subquery()
