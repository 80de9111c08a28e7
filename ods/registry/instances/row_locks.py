"""The order in which a transaction locks several rows, so that no two transactions wait for each other.

Instances by id; then the ODS instance of one, before what belongs to that; then names and contexts.
"""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.storage.models import DbInstance, OdsInstance


async def lock_instances(session: AsyncSession, ids: Collection[int]) -> None:
    """Lock the rows of these instances, as far as there are any."""
    rows = select(DbInstance.id).where(DbInstance.id.in_(ids)).order_by(DbInstance.id)
    await session.execute(rows.with_for_update())


async def lock_with_source(session: AsyncSession, instance_id: int) -> None:
    """Lock the row of an instance and, if its job copies another one, the row of that as well."""
    source_id = DbInstance.arguments_column["origin"]["instance_id"].as_integer()
    source = await session.scalar(select(source_id).where(DbInstance.id == instance_id))
    await lock_instances(session, {instance_id, source or instance_id})


async def lock_ods_instance(session: AsyncSession, ods_instance_id: int) -> OdsInstance | None:
    """Lock an ODS instance; no other session adds a row that refers to it before the transaction ends."""
    return await session.get(OdsInstance, ods_instance_id, with_for_update=True)
