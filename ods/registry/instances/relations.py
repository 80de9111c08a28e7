"""Rows that refer to an ODS instance, and keep it from being deleted.

The derivative that leads to a snapshot which this service has made is none of them: it goes with it.
"""

from collections.abc import Mapping

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.instances.contexts import is_among
from ods.registry.storage import models

_REFERENCES = {
    "Applications": models.ApiClientOdsInstance.ods_instance_id,
    "OdsInstanceContexts": models.OdsInstanceContext.ods_instance_id,
    "OdsInstanceDerivatives": models.OdsInstanceDerivative.ods_instance_id,
}
_SET_ASIDE = {"OdsInstanceContexts", "OdsInstanceDerivatives"}
"""Those that go to the trash with it (`ods/registry/instances/set_aside.py`)."""


async def relations_of(
    session: AsyncSession, ods_instance_id: int, own_contexts: Mapping[str, str] | None = None
) -> list[str]:
    """Names of the kinds of rows that refer to the ODS instance.

    Args:
        session: the transaction.
        ods_instance_id: the ODS instance.
        own_contexts: contexts that do not count, for they go with it; None if all count.
    """
    snapshot = exists().where(
        models.Snapshot.connection_string == models.OdsInstanceDerivative.connection_string
    )
    conditions = {
        "OdsInstanceContexts": (~is_among(own_contexts or {}),),
        "OdsInstanceDerivatives": (~snapshot,),
    }
    return [
        name
        for name, column in _REFERENCES.items()
        if await session.scalar(
            select(func.count()).where(column == ods_instance_id, *conditions.get(name, ()))
        )
    ]


async def lasting_relations_of(session: AsyncSession, ods_instance_id: int) -> list[str]:
    """Those of them that keep it also from the trash."""
    found = await relations_of(session, ods_instance_id)
    return [name for name in found if name not in _SET_ASIDE]
