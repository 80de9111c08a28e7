"""What a request makes an instance's database of: held in its transaction, and recorded in its rows."""

from dataclasses import replace
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.backups.rows import hold_backup
from ods.registry.instances.copies import copy_obstacle, held_source
from ods.registry.instances.jobs import Replacement
from ods.registry.instances.origins import BackupOrigin, CopyOrigin, Origin, TemplateOrigin, origin_columns
from ods.registry.instances.status import Operation
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import DbInstance


def operation_of(origin: Origin) -> Operation:
    """What makes an instance of this origin."""
    match origin:
        case TemplateOrigin():
            return Operation.CREATE
        case CopyOrigin():
            return Operation.COPY
        case BackupOrigin():
            return Operation.RESTORE
        case _:
            assert_never(origin)


def reset_of(origin: Origin) -> Operation:
    """What resets an instance to this origin."""
    match origin:
        case TemplateOrigin():
            return Operation.RESET
        case CopyOrigin() | BackupOrigin():
            return Operation.REPLACE
        case _:
            assert_never(origin)


def made_of(replacement: Replacement, origin: Origin, source: DbInstance | None) -> Replacement:
    """The same, which is made of this origin: of the source, if that is copied."""
    match origin:
        case TemplateOrigin():
            return replacement
        case CopyOrigin():
            return replace(replacement, copy_of=_marked(origin, source))
        case BackupOrigin():
            return replace(replacement, backup_id=origin.backup_id)
        case _:
            assert_never(origin)


def _marked(copy: CopyOrigin, source: DbInstance | None) -> CopyOrigin:
    return replace(copy, mark=None if source is None else str(source.mark))


def recorded_origin(origin: Origin, source: DbInstance | None) -> dict[str, object]:
    """The columns of a new instance that hold its origin."""
    if not isinstance(origin, CopyOrigin):
        return origin_columns(origin)
    generation = source.template_generation if source else None
    return {**origin_columns(_marked(origin, source)), "template_generation": generation}


async def require_same_source(session: AsyncSession, instance: DbInstance, copy: CopyOrigin) -> None:
    """Hold the source of a copy again, whose job has failed and is about to be retried.

    Raises:
        RefusedError: the source is gone, is not `Completed`, or another copy excludes this one.
    """
    if (obstacle := await copy_obstacle(session, instance, copy)) is not None:
        raise RefusedError(instance.status, obstacle, "Then retry, or delete this instance.")


async def hold_origin(session: AsyncSession, origin: Origin) -> DbInstance | None:
    """Keep what is copied or restored from other transactions; returns the instance that is copied.

    Raises:
        InvalidError: there is no instance to copy, or the backup is deleted.
        RefusedError: the instance that shall be copied is not `Completed`, or another copy excludes this.
    """
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
