"""Names and ids that only one instance, or ODS instance, can have."""

from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from instances import models
from instances.errors import NameTakenError
from instances.models import DbInstance, OdsInstance
from instances.status import InstanceStatus

_NAMES = 0x4F6453
"""Keeps the locks of names apart from other locks of this database."""


async def require_free(
    session: AsyncSession, name: str, database: str, but_for: DbInstance | None = None
) -> None:
    """Let nobody but this transaction take `name`, or `database` as the name of a database.

    Raises:
        NameTakenError: an ODS instance or a live instance has one of them, or shall get it; `but_for` aside.
    """
    await lock_name(session, name, database)
    taken = await ods_instance_has_name(session, name, but_for.odsinstanceid if but_for else None)
    if taken or await live_instance_has_name(session, name, but_for):
        raise name_taken(name)
    if await _live_instance_has(
        session, (DbInstance.databasename, DbInstance.newdatabasename), database, but_for
    ):
        raise database_taken(database)


def name_taken(name: str) -> NameTakenError:
    """The refusal of a name that belongs to somebody."""
    return NameTakenError(f"An instance named '{name}' already exists. Choose another name.")


def database_taken(database: str) -> NameTakenError:
    """The refusal of a name that leads to a database that belongs to somebody."""
    return NameTakenError(
        f"An instance whose database is named '{database}' already exists. Choose another name."
    )


async def lock_name(session: AsyncSession, *names: str) -> None:
    """Let nobody else take `names` before the transaction ends; no index watches over all columns."""
    keys = [func.hashtextextended(name, _NAMES) for name in names]
    await session.execute(select(*(func.pg_advisory_xact_lock(key) for key in keys)))


async def ods_instance_has_name(session: AsyncSession, name: str, but_for: int | None = None) -> bool:
    """Whether an ODS instance, other than the one with the id `but_for`, is called `name`."""
    query = select(OdsInstance.odsinstanceid).where(OdsInstance.name == name)
    if but_for is not None:
        query = query.where(OdsInstance.odsinstanceid != but_for)
    return await session.scalar(query.limit(1)) is not None


async def live_instance_has_name(session: AsyncSession, name: str, but_for: DbInstance | None = None) -> bool:
    """Whether an instance that is not deleted, other than `but_for`, is called `name` or shall be."""
    return await _live_instance_has(session, (DbInstance.name, DbInstance.newname), name, but_for)


async def _live_instance_has(
    session: AsyncSession,
    columns: tuple[InstrumentedAttribute[Any], ...],
    value: str,
    but_for: DbInstance | None,
) -> bool:
    query = select(DbInstance.id).where(
        or_(*(column == value for column in columns)), DbInstance.status != InstanceStatus.DELETED
    )
    if but_for is not None:
        query = query.where(DbInstance.id != but_for.id)
    return await session.scalar(query.limit(1)) is not None


async def reserved_id(session: AsyncSession) -> int:
    """The next OdsInstanceId that nothing has, whatever was done to rows or the sequence by hand."""
    while True:
        reserved: int = (await session.scalars(models.NEXT_ODS_INSTANCE_ID)).one()
        has_it = select(DbInstance.id).where(DbInstance.odsinstanceid == reserved).limit(1)
        if await session.get(OdsInstance, reserved) is None and await session.scalar(has_it) is None:
            return reserved
