"""What a request makes an instance's database of: held in its transaction, and recorded in its rows."""

from dataclasses import asdict, replace
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.origins import BackupOrigin, CopyOrigin, Origin, TemplateOrigin
from ods.registry.backups.rows import hold_backup
from ods.registry.instances.copies import copy_obstacle, held_source
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import DbInstance


def made_of(origin: Origin, source: DbInstance | None) -> Origin:
    """The same origin, with the mark of the source if that is copied."""
    if not isinstance(origin, CopyOrigin):
        return origin
    return replace(origin, mark=None if source is None else str(source.mark))


def recorded_origin(origin: Origin, source: DbInstance | None) -> dict[str, object]:
    """The columns of a new instance that hold its origin."""
    recorded: dict[str, object] = {"origin_column": asdict(made_of(origin, source))}
    if not isinstance(origin, CopyOrigin):
        return recorded
    return {**recorded, "template_generation": source.template_generation if source else None}


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
