"""What an instance's database is made of; which instances may be copied, and what is refused meanwhile.

An instance is held while the row of another one says that a waiting or running job (a create or a reset)
makes it a copy of this one. No other record begins or ends a hold, so none is left behind. Requests for the
held instance and for a copy of it both lock its row: either sees what the other has committed.
"""

from dataclasses import replace
from typing import assert_never

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.operations import AT_REST, UNDER_WAY, InstanceStatus
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, EarlierDatabase, Origin, TemplateOrigin
from ods.registry.backups.rows import hold_backup
from ods.registry.instances.jobs import job_id
from ods.registry.storage.errors import InvalidError, RefusedError
from ods.registry.storage.models import MADE_OF_OTHERS, DbInstance


async def hold_refusal(
    session: AsyncSession, instance: DbInstance, mode: CopyMode | None = None
) -> RefusedError | None:
    """Why an instance that is being copied must keep its data, names and routing; None if it is not.

    Each operation that deletes, renames, replaces or closes a database asks this alone; `mode` asks for
    copies of that mode only. The caller has locked the row, so that no request for a copy is committed before
    its own.
    """
    copy = (await session.scalars(_copies_of(instance, mode))).one_or_none()
    if copy is None:
        return None
    job = job_id(copy.word, copy.ods_instance_id, copy.job_number)
    return RefusedError(
        instance.status,
        f"The instance {instance.id} is being copied: the instance {copy.id}, '{copy.name}', is made of it.",
        f"Wait until the job {job} has ended, or cancel it (POST /v2/jobs/{job}/cancel).",
    )


async def require_not_copied(session: AsyncSession, instance: DbInstance) -> None:
    """Raise RefusedError if the locked instance is being copied."""
    if (refusal := await hold_refusal(session, instance)) is not None:
        raise refusal


async def require_open(session: AsyncSession, instance: DbInstance) -> None:
    """Raise RefusedError if files of the locked instance's database are copied, or are about to be.

    A request that must connect to the database asks this.
    """
    if (refusal := await hold_refusal(session, instance, CopyMode.CLOSED)) is not None:
        raise refusal


async def held_source(session: AsyncSession, copy: CopyOrigin) -> DbInstance:
    """Lock the instance that shall be copied; once the copy's row is committed, it is held.

    Raises:
        InvalidError: there is no such live instance.
        RefusedError: it is not `Completed`, another product's, or a copy under way excludes this one.
    """
    source = await session.get(DbInstance, copy.instance_id, with_for_update=True)
    if source is None or not source.is_live:
        raise InvalidError({"CopyOf": [f"There is no instance {copy.instance_id}."]})
    if source.status != InstanceStatus.COMPLETED or not source.is_adopted:
        current = InstanceStatus(source.status)
        raise RefusedError(
            current,
            f"The instance {source.id}, '{source.name}', cannot be copied in state {current}.",
            f"Copy it when it is {InstanceStatus.COMPLETED}.",
        )
    match copy.mode:
        case CopyMode.ONLINE:
            await require_open(session, source)
        case CopyMode.CLOSED:
            await require_not_copied(session, source)
        case _:
            assert_never(copy.mode)
    return source


async def copy_obstacle(
    session: AsyncSession, instance: DbInstance, copy: Origin | EarlierDatabase | None
) -> str | None:
    """Why the job that makes the locked `instance` a copy cannot begin; None if it can, or makes none.

    A waiting job holds its source, which therefore is unchanged. A failed one holds it no longer.
    """
    if not isinstance(copy, CopyOrigin):
        return None
    gone = f"The instance {copy.instance_id}, which is to be copied, is gone."
    if InstanceStatus(instance.status) in AT_REST:
        try:
            source = await held_source(session, copy)
        except InvalidError:
            return gone
        except RefusedError as refusal:
            return f"{refusal.reason} {refusal.next_step}"
    else:
        found = await session.get(DbInstance, copy.instance_id)
        if found is None or not found.is_live:
            return gone
        source = found
    return gone if str(source.mark) != copy.mark else None


def made_of(origin: Origin, source: DbInstance | None) -> Origin:
    """The same origin, with the mark of the source if that is copied."""
    if not isinstance(origin, CopyOrigin):
        return origin
    return replace(origin, mark=None if source is None else str(source.mark))


async def hold_origin(session: AsyncSession, origin: Origin) -> DbInstance | None:
    """Keep what is copied or restored from other transactions; returns the instance that is copied."""
    match origin:
        case TemplateOrigin():
            return None
        case CopyOrigin():
            return await held_source(session, origin)
        case BackupOrigin():
            await hold_backup(session, origin.backup_id)
            return None
        case _:
            assert_never(origin)


def _copies_of(instance: DbInstance, mode: CopyMode | None = None) -> Select[DbInstance]:
    """The instance that a waiting or running job makes a copy of this one, in this mode if one is given."""
    origin = DbInstance.arguments_column["origin"]
    query = select(DbInstance).where(
        DbInstance.status.in_(UNDER_WAY),
        MADE_OF_OTHERS,
        origin["instance_id"].as_integer() == instance.id,
        origin["mark"].as_string() == str(instance.mark),
    )
    if mode is not None:
        query = query.where(origin["mode"].as_string() == mode)
    return query.order_by(DbInstance.id).limit(1)
