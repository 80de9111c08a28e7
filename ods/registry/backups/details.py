"""What a backup keeps of its instance beside the database: contexts, labels, a description."""

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.operations import Operation
from ods.registry.instances.ods_routing import context_obstacle
from ods.registry.storage.models import Backup, DbInstance, Job, OdsInstance, OdsInstanceContext

_logger = logging.getLogger(__name__)


async def details_of(session: AsyncSession, instance: DbInstance) -> dict[str, Any]:
    """What is in no other column, and is wanted to bring an instance back that the registry has lost."""
    its = OdsInstanceContext.ods_instance_id == instance.ods_instance_id
    query = select(OdsInstanceContext).where(its).order_by(OdsInstanceContext.id)
    contexts = [(row.key, row.value) for row in await session.scalars(query)]
    kept = (instance.set_aside or {}).get("contexts", ())  # of an instance in the trash
    contexts += [(context["key"], context["value"]) for context in kept]
    return {
        "databaseName": instance.database_name,
        "description": instance.description,
        "labels": instance.labels or {},
        "contexts": [{"contextKey": key, "contextValue": value} for key, value in contexts],
    }


async def give_details_back(session: AsyncSession, instance: DbInstance, details: Mapping[str, Any]) -> None:
    """Give an instance that a recovery has recorded what its newest backup keeps of it.

    Comments of databases do not say it, so the recovery could not. What the instance has been given since
    stays. The log names the contexts that are not given back, because another instance has them, or this one
    is in the trash.
    """
    if not await _was_recovered(session, instance):
        return
    if instance.description is None and instance.labels is None:
        instance.description, instance.labels = details.get("description"), details.get("labels") or None
    contexts = {one["contextKey"]: one["contextValue"] for one in details.get("contexts", ())}
    its = select(OdsInstanceContext.id).where(OdsInstanceContext.ods_instance_id == instance.ods_instance_id)
    if not contexts or await session.scalar(its.limit(1)) is not None:
        return
    obstacle: str | None = "It is in the trash, or has no ODS instance."
    if instance.is_live and await session.get(OdsInstance, instance.ods_instance_id) is not None:
        obstacle = await context_obstacle(session, instance.ods_instance_id, contexts)
    if obstacle is not None:
        words = "The contexts %s of the instance %s are not given back by its backup. %s"
        _logger.warning(words, contexts, instance.id, obstacle)
        return
    for key, value in contexts.items():
        session.add(OdsInstanceContext(ods_instance_id=instance.ods_instance_id, key=key, value=value))


async def _was_recovered(session: AsyncSession, instance: DbInstance) -> bool:
    """Whether a registry that had lost the instance has recorded it, and has no backup of it yet."""
    its_create = (Job.instance_id == instance.id, Job.operation == Operation.CREATE)
    is_created = select(Job.job_id).where(*its_create).limit(1)
    is_backed_up = select(Backup.id).where(Backup.mark == instance.mark).limit(1)
    known = [await session.scalar(query) for query in (is_created, is_backed_up)]
    return known == [None, None]
