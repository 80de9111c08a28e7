"""What belongs to the ODS instance of a deleted instance, and comes back with it: contexts and derivatives.

It is kept in the instance's row, as JSON; the connection strings of derivatives stay encrypted.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, delete, false, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.instances.contexts import is_among, own_contexts_of, require_free_contexts
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.ods_routing import end_routing
from ods.registry.instances.row_locks import lock_ods_instance
from ods.registry.storage.errors import InvalidError
from ods.registry.storage.models import DbInstance, OdsInstance, OdsInstanceContext, OdsInstanceDerivative


async def set_routing_aside(session: AsyncSession, job: InstanceJob) -> str | None:
    """Remove the ODS instance of the instance that `job` has taken, and keep what belongs to it in its row.

    If rows of other kinds refer to it, all stays, and the reason is returned. If it is gone already, what was
    kept then is left as it is.
    """
    async with session.begin_nested() as savepoint:
        await keep_parts(session, job.instance_id, job.ods_instance_id)
        refusal = await end_routing(session, job.ods_instance_id)
        if refusal is not None:
            await savepoint.rollback()
    return refusal


async def keep_parts(session: AsyncSession, instance_id: int, ods_instance_id: int) -> None:
    """Move contexts and derivatives of an ODS instance, if it is there, to the row of its instance."""
    await _keep(session, instance_id, ods_instance_id, true(), true())


async def keep_own_contexts(session: AsyncSession, job: InstanceJob) -> None:
    """Move the contexts that are the instance's own from its ODS instance, if it is there, to its row.

    A purge forgets them when it is done. If it fails, they may come back from the trash.
    """
    if own := await own_contexts_of(session, job.instance_id):
        await _keep(session, job.instance_id, job.ods_instance_id, is_among(own), false())


async def _keep(
    session: AsyncSession,
    instance_id: int,
    ods_instance_id: int,
    contexts_of_it: ColumnElement[bool],
    derivatives_of_it: ColumnElement[bool],
) -> None:
    ods_instance = await lock_ods_instance(session, ods_instance_id)
    if ods_instance is None:
        return
    of_contexts = OdsInstanceContext.ods_instance_id == ods_instance_id, contexts_of_it
    of_derivatives = OdsInstanceDerivative.ods_instance_id == ods_instance_id, derivatives_of_it
    kept = {
        "instanceType": ods_instance.instance_type,
        "contexts": [
            {"id": row.id, "key": row.key, "value": row.value}
            for row in await session.scalars(select(OdsInstanceContext).where(*of_contexts))
        ],
        "derivatives": [
            {"id": row.id, "type": row.derivative_type, "connectionString": row.connection_string}
            for row in await session.scalars(select(OdsInstanceDerivative).where(*of_derivatives))
        ],
    }
    await session.execute(delete(OdsInstanceContext).where(*of_contexts))
    await session.execute(delete(OdsInstanceDerivative).where(*of_derivatives))
    await session.execute(update(DbInstance).where(DbInstance.id == instance_id).values(set_aside=kept))


def kinds_set_aside(kept: Mapping[str, Any] | None, forgotten: Mapping[str, str]) -> list[str]:
    """Names of the kinds of rows in `kept`, as in `relations_of`, without the `forgotten` contexts."""
    if kept is None:
        return []
    contexts = [one for one in kept["contexts"] if forgotten.get(one["key"]) != one["value"]]
    kinds = {"OdsInstanceContexts": contexts, "OdsInstanceDerivatives": kept["derivatives"]}
    return [name for name, rows in kinds.items() if rows]


def contexts_to_come_back(
    kept: Mapping[str, Any] | None, reserved: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The contexts that an instance in the trash gets with its undelete.

    `kept` was set aside of its ODS instance. `reserved` it has wanted since a create that has failed after it
    had published the database.
    """
    set_aside = {context["key"]: context["value"] for context in (kept or {}).get("contexts", ())}
    return {**set_aside, **(reserved or {})}


async def context_obstacle(
    session: AsyncSession, ods_instance_id: int, contexts: Mapping[str, str]
) -> str | None:
    """Why these contexts cannot come back; if they can, no other transaction can take them."""
    try:
        await require_free_contexts(session, contexts, ods_instance_id)
    except InvalidError as error:
        return " ".join(reason for reasons in error.errors.values() for reason in reasons)
    return None


async def give_back(
    session: AsyncSession,
    ods_instance_id: int,
    kept: dict[str, Any] | None,
    renamed: Callable[[str | None], str | None],
) -> None:
    """Add what was kept to the ODS instance, which the caller has added; rows get their ids back.

    An id that another row has by now, as after sequences were set by hand, is replaced by a new one.
    `renamed` gives a derivative's encrypted connection string the database's new name.
    """
    if kept is None:
        return
    await session.flush()
    ods_instance = await session.get_one(OdsInstance, ods_instance_id)
    ods_instance.instance_type = kept["instanceType"]
    for context in kept["contexts"]:
        row = OdsInstanceContext(ods_instance_id=ods_instance_id, key=context["key"], value=context["value"])
        if await session.get(OdsInstanceContext, context["id"]) is None:
            row.id = context["id"]
        session.add(row)
    for derivative in kept["derivatives"]:
        replica = OdsInstanceDerivative(
            ods_instance_id=ods_instance_id,
            derivative_type=derivative["type"],
            connection_string=renamed(derivative["connectionString"]),
        )
        if await session.get(OdsInstanceDerivative, derivative["id"]) is None:
            replica.id = derivative["id"]
        session.add(replica)
