"""How the ODS/API is routed to an instance's database: the instance's row of `dbo.odsinstances`.

Contexts and derivatives of the ODS instance of a deleted instance are set aside, and come back with it. They
are kept in the instance's row, as JSON; the connection strings of derivatives stay encrypted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, delete, exists, false, func, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ods.registry.education_organizations.store import forget
from ods.registry.instances.contexts import is_among, own_contexts_of, publish_contexts, require_free_contexts
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.reservations import (
    lock_name,
    lock_ods_instance,
    name_taken,
    ods_instance_has_name,
    ods_instances_have,
)
from ods.registry.storage.errors import InvalidError, NameTakenError
from ods.registry.storage.models import (
    ApiClientOdsInstance,
    DbInstance,
    OdsInstance,
    OdsInstanceContext,
    OdsInstanceDerivative,
    Snapshot,
)


class ConnectionStrings(Protocol):
    """Reads the encrypted connection strings of the registry, as `OdsConnectionStrings` does."""

    def renamed(self, old: str, new: str, encrypted: str | None) -> str | None:
        """The connection string with the database `new`, if it names `old`; others as they are."""

    def local_database(self, encrypted: str | None) -> str | None:
        """The database that it names, if that is on the server of the ODS databases."""


class UnreadableConnectionStrings:
    """For a process that has no keys: connection strings stay as they are."""

    def renamed(self, _old: str, _new: str, encrypted: str | None) -> str | None:
        """The same."""
        return encrypted

    def local_database(self, _encrypted: str | None) -> str | None:
        """It is not known."""
        return None


UNREADABLE = UnreadableConnectionStrings()


async def start_routing(session: AsyncSession, job: InstanceJob, connection_string: str) -> None:
    """Add the ODS instance of a created instance: the ODS/API routes requests to its database from now on.

    If the instance has had no ODS instance before, it gets the contexts that are reserved for it.
    """
    await lock_name(session, job.name)
    has_name, has_id = await ods_instances_have(session, job.name, job.ods_instance_id)
    if has_name:
        raise name_taken(job.name)
    if has_id:
        raise NameTakenError(
            f"Another ODS instance has the id {job.ods_instance_id}, which was reserved for this instance."
            " If nothing uses that ODS instance, remove it, then retry. If something does, create another"
            " instance instead."
        )
    ods_instance = OdsInstance(
        ods_instance_id=job.ods_instance_id,
        name=job.name,
        instance_type=job.template,
        connection_string=connection_string,
    )
    session.add(ods_instance)
    await session.flush()
    await publish_contexts(session, job)


async def change_routing(
    session: AsyncSession, job: InstanceJob, connection_string: str, strings: ConnectionStrings
) -> None:
    """Give the ODS instance its new name, and the encrypted connection string of the renamed database.

    What else leads to the database follows.
    """
    if (obstacle := await rename_obstacle(session, job)) is not None:
        raise NameTakenError(obstacle)
    await session.execute(
        update(OdsInstance)
        .where(OdsInstance.ods_instance_id == job.ods_instance_id)
        .values(name=job.final_name, connection_string=connection_string)
    )
    await follow_database(session, job.ods_instance_id, job.database, job.final_database, strings)


async def move_routing(
    session: AsyncSession,
    ods_instance_id: int,
    names: tuple[str, str],
    connection_string: str,
    strings: ConnectionStrings,
) -> bool:
    """Route the ODS instance to its database by its new name, the second of `names`; false if there is none.

    What else leads to the database follows.
    """
    routed = await session.scalars(
        update(OdsInstance)
        .where(OdsInstance.ods_instance_id == ods_instance_id)
        .values(connection_string=connection_string)
        .returning(OdsInstance.ods_instance_id)
    )
    await follow_database(session, ods_instance_id, *names, strings)
    return bool(routed.all())


async def follow_database(
    session: AsyncSession, ods_instance_id: int, old: str, new: str, strings: ConnectionStrings
) -> None:
    """Have what leads to an instance's database lead to its new name, except for its own ODS instance.

    That is: other ODS instances that lead there, and those derivatives of all these that name the database,
    on whichever server (a physical replica has the databases of its primary). Snapshots have names of their
    own.
    """
    others = await others_leading_to(session, ods_instance_id, old, strings)
    rows = select(OdsInstance).where(OdsInstance.ods_instance_id.in_(others))
    rows = rows.order_by(OdsInstance.ods_instance_id).with_for_update(key_share=True)
    following = [ods_instance_id]
    for other in await session.scalars(rows):
        if strings.local_database(other.connection_string) == old:  # read again, now that it is locked
            other.connection_string = strings.renamed(old, new, other.connection_string)
            following.append(other.ods_instance_id)
    derivatives = select(OdsInstanceDerivative).where(OdsInstanceDerivative.ods_instance_id.in_(following))
    for derivative in await session.scalars(derivatives.with_for_update()):
        derivative.connection_string = strings.renamed(old, new, derivative.connection_string)


async def others_leading_to(
    session: AsyncSession, ods_instance_id: int, database: str, strings: ConnectionStrings
) -> Mapping[int, str]:
    """The names of the other ODS instances that lead to the instance's database, by id.

    Clients add such. None of the rows is locked: there may be thousands.
    """
    others = select(OdsInstance.ods_instance_id, OdsInstance.name, OdsInstance.connection_string).where(
        OdsInstance.ods_instance_id != ods_instance_id
    )
    return {
        number: name
        for number, name, text in await session.execute(others)
        if strings.local_database(text) == database
    }


def others_reason(others: Mapping[int, str]) -> str:
    """Why the database of an instance stays to which these other ODS instances lead."""
    named = ", ".join(f"{number} '{name}'" for number, name in sorted(others.items()))
    return f"Other ODS instances lead to its database: {named}."


OTHERS_NEXT_STEP = (
    "Delete them, or give them other connection strings (DELETE or PUT /v2/odsInstances/{id}), then delete"
    " it. Or detach it, which leaves the database to them."
)
"""What can be done about `others_reason`."""


async def rename_obstacle(session: AsyncSession, job: InstanceJob) -> str | None:
    """Why the ODS instance cannot have its new name; if it can, no other transaction can take it."""
    await lock_name(session, job.final_name)
    if await ods_instance_has_name(session, job.final_name, excluding=job.ods_instance_id):
        return str(name_taken(job.final_name))
    if await session.get(OdsInstance, job.ods_instance_id) is None:
        return (
            f"The ODS instance {job.ods_instance_id} does not exist any more. Make it anew: `ods instance"
            f" adopt {job.instance_id} --database {job.database}`, then retry."
        )
    return None


async def end_routing(session: AsyncSession, ods_instance_id: int) -> str | None:
    """Remove the ODS instance; returns why it stays, if rows refer to it."""
    # From here on no other session can add a row that refers to it: in some versions of the ODS/API's tables,
    # such a row would be deleted together with it.
    await lock_ods_instance(session, ods_instance_id)
    if relations := await relations_of(session, ods_instance_id):
        return relations_reason(relations)
    try:
        async with session.begin_nested():
            await session.execute(delete(OdsInstance).where(OdsInstance.ods_instance_id == ods_instance_id))
            await forget(session, ods_instance_id)
    except IntegrityError:
        return "The ODS instance is in use by rows of another table."
    return None


_REFERENCES = {
    "Applications": ApiClientOdsInstance.ods_instance_id,
    "OdsInstanceContexts": OdsInstanceContext.ods_instance_id,
    "OdsInstanceDerivatives": OdsInstanceDerivative.ods_instance_id,
}
_SET_ASIDE = {"OdsInstanceContexts", "OdsInstanceDerivatives"}
"""Those that go to the trash with it (`ods/registry/instances/ods_routing.py`)."""


async def relations_of(
    session: AsyncSession, ods_instance_id: int, own_contexts: Mapping[str, str] | None = None
) -> list[str]:
    """The kinds of rows that refer to the ODS instance, and keep it from being deleted.

    Not counted are `own_contexts`, which go with it, and the derivative that leads to a snapshot of ours.
    """
    snapshot = exists().where(Snapshot.connection_string == OdsInstanceDerivative.connection_string)
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
    """The kinds of rows that keep the ODS instance from going to the trash."""
    found = await relations_of(session, ods_instance_id)
    return [name for name in found if name not in _SET_ASIDE]


def relations_reason(relations: Sequence[str]) -> str:
    """Why an ODS instance to which such rows refer stays."""
    return f"The ODS instance is in use by {', '.join(relations)}."


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
