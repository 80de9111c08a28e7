"""Reservation of the names and ids that only one instance, or ODS instance, can have; and locks of rows.

That includes names that databases have left by a rename: for a while, no other instance can have them. The
ODS/API may have a connection string with such a name in its cache, and clients of the instance that had it
would write into the database of the next one.

A transaction locks instances by id; then the ODS instance of one, before what belongs to that; then names and
contexts. So no two transactions wait for each other.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    ScalarSelect,
    Text,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ods.model.operations import InstanceStatus, Operation
from ods.registry.ods_api_cache import CACHED, in_minutes
from ods.registry.storage.errors import NameTakenError, RefusedError
from ods.registry.storage.models import (
    FIRST_NAME,
    RENAMED_TABLE,
    UTC_NOW,
    Backup,
    DbInstance,
    InstanceDatabase,
    Job,
    LeftDatabaseName,
    OdsInstance,
    Snapshot,
)

_DATABASES = (DbInstance.database_name, DbInstance.new_database_name)
_NAMES = 0x4F6453
"""Keeps the locks of names apart from other locks of this database."""
_NUMBERS = 0x4F64534E756D
"""The lock of a transaction that brings the sequences of both tables in step."""

_TABLES = (f"adminapi.{RENAMED_TABLE}", f"adminapi.{FIRST_NAME}")
"""What the table of the instances may be called: the Admin API renames it, also while the service runs."""
_ODS_INSTANCE_IDS = func.pg_get_serial_sequence("dbo.odsinstances", "odsinstanceid")
_INSTANCE_IDS = func.coalesce(
    *(func.pg_get_serial_sequence(cast(func.to_regclass(table), Text), "id") for table in _TABLES)
)
_MOST_SKIPPED = 100_000
"""How many numbers one request draws of a sequence that lags behind the other, in some 30 ms.

A sequence that lags by more is set. No other session can have drawn all the numbers between meanwhile, so it
is never set back.
"""


async def require_free(
    session: AsyncSession, name: str, database: str, excluding: DbInstance | None = None
) -> None:
    """Keep other transactions from taking `name`, or `database` as the name of a database.

    `excluding` is an instance that may have them already, or be about to get them.
    """
    await lock_name(session, name, database)
    database_used = _live_instance_has(_DATABASES, database, excluding)
    query = select(_name_in_use(name, excluding), database_used, reserved_for(database, excluding))
    name_used, used, reserved = (await session.execute(query)).one()
    if name_used:
        raise name_taken(name)
    _require_free_database(database, used=used, reserved=reserved)


async def require_free_database(
    session: AsyncSession, database: str, excluding: DbInstance | None = None
) -> None:
    """The same for the name of a database alone."""
    await lock_name(session, database)
    database_used = _live_instance_has(_DATABASES, database, excluding)
    query = select(database_used, reserved_for(database, excluding))
    used, reserved = (await session.execute(query)).one()
    _require_free_database(database, used=used, reserved=reserved)


async def former_name_refusal(
    session: AsyncSession, instance: DbInstance, database: str
) -> RefusedError | None:
    """Why a deleted instance cannot come back with a `database` of this name yet; None if it can.

    Under another name, clients are led to it again, while the ODS/API may have the former one in its cache.
    """
    former = instance.database_name
    trashed_at = instance.database.trashed_at
    if database == former or trashed_at is None:
        return None
    remaining = type_coerce(literal(trashed_at + CACHED) - UTC_NOW, Interval)
    query = select(_live_instance_has(_DATABASES, former, instance), remaining)
    is_taken, wait = (await session.execute(query)).one()
    if not is_taken or wait <= timedelta():
        return None
    return RefusedError(
        InstanceStatus(instance.status),
        f"The database of another instance is named '{former}' by now, as this one's was until its delete."
        " The ODS/API may still have that in its cache, and would have clients of this instance write into"
        " that database.",
        f"Wait {in_minutes(wait)}, then undelete it.",
    )


def _require_free_database(database: str, *, used: bool, reserved: timedelta | None) -> None:
    if used:
        raise database_taken(database)
    if reserved is not None and reserved > timedelta():
        raise NameTakenError(
            f"Until its rename, the database of another instance was named '{database}'. The ODS/API may"
            " still have that in its cache, and would have clients of that instance write into this one's"
            f" database. Wait {in_minutes(reserved)}, or choose another name."
        )


async def leave_name(session: AsyncSession, instance_id: int, left: str, new: str) -> None:
    """Record that an instance has `left` a name of its database for a new one; remove what is over.

    Records that another session has locked are left to it: no rename waits for another one.
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


def name_taken(name: str) -> NameTakenError:
    """The refusal of a name that another instance or ODS instance has."""
    return NameTakenError(f"An instance named '{name}' already exists. Choose another name.")


def database_taken(database: str) -> NameTakenError:
    """The refusal of a name whose database name another instance has."""
    return NameTakenError(
        f"An instance whose database is named '{database}' already exists. Choose another name."
    )


async def lock_name(session: AsyncSession, *names: str) -> None:
    """Keep other transactions from taking `names` before this one ends: no index spans all their columns.

    Every transaction locks them in the same order, so that no two wait for each other.
    """
    keys = [func.hashtextextended(name, _NAMES) for name in sorted(set(names))]
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
    """The next number that is free both as OdsInstanceId and as id of an instance: a new one has it as both.

    It is drawn from the sequences of both tables, so that neither gives it to a row of another product. No
    row has it, even if rows or sequences were changed by hand.
    """
    drawn = (await session.execute(_DRAW)).one()
    if drawn.ods == drawn.own and not drawn.is_taken:
        return int(drawn.ods)
    # The sequences differ, or are behind the rows: one transaction at a time sets them right.
    await session.execute(select(func.pg_advisory_xact_lock(_NUMBERS)))
    while True:
        number = await _common_number(session)
        if not (await session.scalars(select(_is_taken(literal(number))))).one():
            return number


async def pass_number(session: AsyncSession, highest: int) -> None:
    """Let no number up to `highest` be given again: databases have them that the registry has forgotten."""
    await session.execute(select(func.pg_advisory_xact_lock(_NUMBERS)))
    number = await _common_number(session)
    if number < highest:
        await _advanced(session, _ODS_INSTANCE_IDS, number, highest)
        await _advanced(session, _INSTANCE_IDS, number, highest)


async def instance_id_for(session: AsyncSession, ods_instance_id: int) -> int:
    """The id of an instance that is recorded anew: its OdsInstanceId, unless another instance has that id."""
    query = select(exists().where(DbInstance.id == ods_instance_id))
    return await reserved_id(session) if (await session.scalars(query)).one() else ods_instance_id


async def require_free_number(session: AsyncSession, ods_instance_id: int) -> None:
    """Refuse to record a lost instance anew whose OdsInstanceId another instance, or ODS instance, has."""
    is_there = or_(DbInstance.is_live, DbInstance.is_in_trash)
    others = (
        exists().where(DbInstance.ods_instance_id == ods_instance_id, is_there),
        exists().where(OdsInstance.ods_instance_id == ods_instance_id),
    )
    if (await session.scalars(select(or_(*others)))).one():
        raise NameTakenError(
            f"The OdsInstanceId {ods_instance_id} was given to another instance since the registry lost this"
            " one. Remove the comment of its database (COMMENT ON DATABASE … IS NULL), and let the ODS/API"
            " route to it under another id: POST /v2/odsInstances."
        )


async def free_job_number(session: AsyncSession, instance_id: int, ods_instance_id: int) -> int:
    """A number above those of all jobs that the registry knows of an instance which is recorded anew.

    Perhaps only its row was lost: jobs, backups, snapshots and databases still have their numbers.
    """
    pattern = rf"InstanceJob-{ods_instance_id}-(\d{{1,9}})$"
    used = union_all(
        *(select(cast(func.substring(it.job_id, pattern), Integer).label("number")) for it in (Job, Backup)),
        *(select(it.job_number).where(it.instance_id == instance_id) for it in (Snapshot, InstanceDatabase)),
    ).subquery()
    last = (await session.scalars(select(func.max(used.c.number)))).one()
    return int(last or 0) + 1


async def _common_number(session: AsyncSession) -> int:
    """A number that both sequences have given; the one that lags behind is brought in step with the other."""
    ods, own, _ = (await session.execute(_DRAW)).one()
    while ods != own:
        if ods < own:
            ods = await _advanced(session, _ODS_INSTANCE_IDS, ods, own)
        else:
            own = await _advanced(session, _INSTANCE_IDS, own, ods)
    return int(ods)


async def _advanced(session: AsyncSession, sequence: ColumnElement[Any], number: int, wanted: int) -> int:
    """Let a sequence, which has given `number`, go on to `wanted` at least; returns what it gave last."""
    lag = wanted - number
    if lag > _MOST_SKIPPED:
        return int((await session.scalars(select(func.setval(sequence, wanted)))).one())
    numbers = func.generate_series(1, literal(lag)).alias()
    drawn = select(func.max(func.nextval(sequence))).select_from(numbers)
    return int((await session.scalars(drawn)).one())


def _is_taken(number: ColumnElement[int]) -> ColumnElement[bool]:
    return or_(
        exists().where(OdsInstance.ods_instance_id == number),
        exists().where(DbInstance.ods_instance_id == number),
        exists().where(DbInstance.id == number),
        # The create of an instance whose row is gone, as after a restore of some of the tables.
        exists().where(Job.job_id == func.concat(f"{Operation.CREATE}InstanceJob-", number, "-1")),
    )


_DRAWN = select(func.nextval(_ODS_INSTANCE_IDS).label("ods"), func.nextval(_INSTANCE_IDS).label("own")).cte()
_DRAW = select(_DRAWN.c.ods, _DRAWN.c.own, _is_taken(_DRAWN.c.ods).label("is_taken"))
"""Draws a number of each sequence, and reads whether a row has the first one.

Made once: that takes longer than PostgreSQL needs for it.
"""


def _name_in_use(name: str, excluding: DbInstance | None) -> ColumnElement[bool]:
    return or_(
        _ods_instance_has(name, excluding.ods_instance_id if excluding else None),
        _live_instance_has((DbInstance.name, DbInstance.new_name), name, excluding),
    )


def _ods_instance_has(name: str, excluding: int | None) -> ColumnElement[bool]:
    found = exists().where(OdsInstance.name == name)
    return found if excluding is None else found.where(OdsInstance.ods_instance_id != excluding)


def _live_instance_has(
    columns: tuple[InstrumentedAttribute[Any], InstrumentedAttribute[Any]],
    value: str,
    excluding: DbInstance | None,
) -> ColumnElement[bool]:
    """Whether one has the value in the first of `columns`, or is about to have it, by the second."""
    own, new = columns
    has_it = or_(and_(own == value, DbInstance.has_names), and_(new == value, DbInstance.is_live))
    found = exists().where(has_it)
    return found if excluding is None else found.where(DbInstance.id != excluding.id)


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
