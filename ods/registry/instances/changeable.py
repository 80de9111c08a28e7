"""Instances that a request may change."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.instances.refusals import not_adopted
from ods.registry.storage.errors import InstanceNotFoundError
from ods.registry.storage.models import DbInstance


async def locked_instance(
    session: AsyncSession, instance_id: int, *, in_trash: bool = False, nowait: bool = False
) -> DbInstance:
    """The live instance with this id; with `in_trash`, also one in the trash.

    This session locks its row: no other one changes it before the transaction ends. If another one has locked
    it, that is waited for; with `nowait`, PostgreSQL refuses at once.

    Raises:
        InstanceNotFoundError: there is no such instance.
        RefusedError: an Admin API has added it, and this service has not adopted it.
    """
    return await found_instance(session, instance_id, in_trash=in_trash, lock={"nowait": nowait})


async def found_instance(
    session: AsyncSession, instance_id: int, *, in_trash: bool = False, lock: dict[str, Any] | None = None
) -> DbInstance:
    """The live instance with this id; with `in_trash`, also one in the trash.

    Without `lock`, this session locks nothing: others may change the row as soon as it is read. With it, this
    session locks the row, with these options of `FOR UPDATE`.

    Raises:
        InstanceNotFoundError: there is no such instance.
        RefusedError: an Admin API has added it, and this service has not adopted it.
    """
    instance = await session.get(DbInstance, instance_id, with_for_update=lock)
    if instance is None or not (instance.is_live or (in_trash and instance.is_in_trash)):
        raise InstanceNotFoundError(instance_id)
    if not instance.is_adopted:
        raise not_adopted(instance)
    return instance
