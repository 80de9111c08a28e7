"""Reservation of the names and ids that only one instance, or ODS instance, can have."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry.instances.status import InstanceStatus, Operation
from registry.storage import models
from registry.storage.errors import NameTakenError
from registry.storage.models import DbInstance, Job, OdsInstance

_DATABASES = (DbInstance.database_name, DbInstance.new_database_name)
_NAMES = 0x4F6453
"""Keeps the locks of names apart from other locks of this database."""


async def require_free(
    session: AsyncSession, name: str, database: str, excluding: DbInstance | None = None
) -> None:
    """Keep every other transaction from taking `name`, or `database` as the name of a database.

    Args:
        session: the transaction, at whose end they are free for others again.
        name: the name of an instance or ODS instance.
        database: the name of a database.
        excluding: an instance that may have them already, or be about to get them.

    Raises:
        NameTakenError: an ODS instance or a live instance has one of them, or is about to get it.
    """
    await lock_name(session, name, database)
    query = select(_name_in_use(name, excluding), _live_instance_has(_DATABASES, database, excluding))
    name_used, database_used = (await session.execute(query)).one()
    if name_used:
        raise name_taken(name)
    if database_used:
        raise database_taken(database)


async def database_is_taken(session: AsyncSession, database: str, excluding: DbInstance) -> bool:
    """Whether a live instance other than `excluding` has a database of that name, or is about to get it."""
    return (await session.scalars(select(_live_instance_has(_DATABASES, database, excluding)))).one()


def name_taken(name: str) -> NameTakenError:
    """The refusal of a name that another instance or ODS instance has."""
    return NameTakenError(f"An instance named '{name}' already exists. Choose another name.")


def database_taken(database: str) -> NameTakenError:
    """The refusal of a name whose database name another instance has."""
    return NameTakenError(
        f"An instance whose database is named '{database}' already exists. Choose another name."
    )


async def lock_name(session: AsyncSession, *names: str) -> None:
    """Keep other transactions from taking `names` before this one ends: no index spans all their columns."""
    keys = [func.hashtextextended(name, _NAMES) for name in names]
    await session.execute(select(*(func.pg_advisory_xact_lock(key) for key in keys)))


async def ods_instance_has_name(session: AsyncSession, name: str, excluding: int | None = None) -> bool:
    """Whether an ODS instance, other than the one with the id `excluding`, has the name."""
    return (await session.scalars(select(_ods_instance_has(name, excluding)))).one()


async def ods_instances_have(session: AsyncSession, name: str, ods_instance_id: int) -> tuple[bool, bool]:
    """Whether an ODS instance has the name, and whether one has that id."""
    has_id = exists().where(OdsInstance.ods_instance_id == ods_instance_id)
    row = (await session.execute(select(_ods_instance_has(name, None), has_id))).one()
    return row[0], row[1]


async def name_is_taken(session: AsyncSession, name: str, excluding: DbInstance | None = None) -> bool:
    """Whether an ODS instance or a live instance has the name, or is about to get it.

    `excluding` and its ODS instance do not count.
    """
    return (await session.scalars(select(_name_in_use(name, excluding)))).one()


async def reserved_id(session: AsyncSession) -> int:
    """The next OdsInstanceId that no row has, even if rows or the sequence were changed by hand."""
    following = select(models.NEXT_ODS_INSTANCE_ID.label("id")).cte()
    has_it = or_(
        exists().where(OdsInstance.ods_instance_id == following.c.id),
        exists().where(DbInstance.ods_instance_id == following.c.id),
        # What is left of an instance whose row is gone, as after a restore of some of the tables.
        exists().where(Job.job_id == func.concat(f"{Operation.CREATE}InstanceJob-", following.c.id, "-1")),
    )
    while True:
        reserved, is_taken = (await session.execute(select(following.c.id, has_it))).one()
        if not is_taken:
            return int(reserved)


def _name_in_use(name: str, excluding: DbInstance | None) -> ColumnElement[bool]:
    return or_(
        _ods_instance_has(name, excluding.ods_instance_id if excluding else None),
        _live_instance_has((DbInstance.name, DbInstance.new_name), name, excluding),
    )


def _ods_instance_has(name: str, excluding: int | None) -> ColumnElement[bool]:
    found = exists().where(OdsInstance.name == name)
    return found if excluding is None else found.where(OdsInstance.ods_instance_id != excluding)


def _live_instance_has(
    columns: Sequence[InstrumentedAttribute[Any]], value: str, excluding: DbInstance | None
) -> ColumnElement[bool]:
    found = exists().where(
        or_(*(column == value for column in columns)), DbInstance.status != InstanceStatus.DELETED
    )
    return found if excluding is None else found.where(DbInstance.id != excluding.id)
