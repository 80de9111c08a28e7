"""The history of sizes: of each instance's database, and of all together, once a day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import ARRAY, BigInteger, Date, Integer, cast, delete, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.models import UTC_NOW, DatabaseSize, DbInstance, TotalSize
from ods.registry.storage.sessions import RegistrySessions

KEPT = timedelta(days=366)
"""How long a size is kept: the same day a year ago can be compared."""


@dataclass(frozen=True)
class SizeOfDay:
    """A size in bytes, and its day in UTC."""

    day: date
    bytes: int


class SizeHistory:
    """The sizes of one tenant's databases on the days before."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def record(self, sizes: Mapping[int, int], *, forget: bool) -> None:
        """Record the sizes of today, in bytes by instance; remove those of instances that are gone.

        What was recorded earlier on the same day is overwritten. With `forget`, those that are too old are
        removed as well.
        """
        async with self._sessions.transaction() as session:
            today = (await session.scalars(select(cast(UTC_NOW, Date)))).one()
            total = {"bytes": sum(sizes.values()), "databases": len(sizes)}
            # Two workers that record the same day lock rows in the same order.
            await session.execute(
                insert(TotalSize)
                .values(day=today, **total)
                .on_conflict_do_update(index_elements=[TotalSize.day], set_=total)
            )
            found = (
                func.unnest(
                    literal(list(sizes), ARRAY(Integer)), literal(list(sizes.values()), ARRAY(BigInteger))
                )
                .table_valued("instance_id", "bytes")
                .render_derived()
            )
            adding = insert(DatabaseSize).from_select(
                [DatabaseSize.instance_id, DatabaseSize.day, DatabaseSize.bytes],
                select(found.c.instance_id, literal(today, Date), found.c.bytes),
            )
            await session.execute(
                adding.on_conflict_do_update(
                    index_elements=[DatabaseSize.instance_id, DatabaseSize.day],
                    set_={"bytes": adding.excluded.bytes},
                )
            )
            there = select(DbInstance.id).where(or_(DbInstance.is_live, DbInstance.is_in_trash))
            await session.execute(delete(DatabaseSize).where(DatabaseSize.instance_id.not_in(there)))
            for size in (DatabaseSize, TotalSize) if forget else ():
                await session.execute(delete(size).where(size.day <= today - KEPT))

    async def of_instance(self, instance_id: int) -> Sequence[SizeOfDay]:
        """The sizes of the instance's database, the oldest first."""
        row = DatabaseSize
        query = select(row.day, row.bytes).where(row.instance_id == instance_id).order_by(row.day)
        async with self._sessions.statement() as session:
            return [SizeOfDay(*found) for found in (await session.execute(query)).all()]

    async def of_all(self) -> Sequence[SizeOfDay]:
        """The sizes of all databases together, the oldest first; also of those that are gone by now."""
        query = select(TotalSize.day, TotalSize.bytes).order_by(TotalSize.day)
        async with self._sessions.statement() as session:
            return [SizeOfDay(*found) for found in (await session.execute(query)).all()]
