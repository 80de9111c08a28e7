"""How the ODS/API is routed to an instance's database: the instance's row of `dbo.odsinstances`."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from registry.education_organizations.store import forget
from registry.instances.contexts import publish_contexts
from registry.instances.jobs import InstanceJob
from registry.instances.relations import relations_of
from registry.instances.reservations import lock_name, name_taken, ods_instance_has_name, ods_instances_have
from registry.instances.row_locks import lock_ods_instance
from registry.storage.errors import NameTakenError
from registry.storage.models import OdsInstance, OdsInstanceDerivative

Renaming: TypeAlias = Callable[[str, str, str | None], str | None]
"""Of a database's old name, its new one, and an encrypted connection string: what that is by the new name."""


def leave_as_it_is(_old: str, _new: str, text: str | None) -> str | None:
    """A `Renaming` of those who cannot read connection strings."""
    return text


async def start_routing(session: AsyncSession, job: InstanceJob, connection_string: str) -> None:
    """Add the ODS instance of a created instance: the ODS/API routes requests to its database from now on.

    It gets the contexts that are reserved for the instance.

    Raises:
        NameTakenError: another one has its name or its id.
    """
    await lock_name(session, job.name)
    has_name, has_id = await ods_instances_have(session, job.name, job.ods_instance_id)
    if has_name:
        raise name_taken(job.name)
    if has_id:
        raise NameTakenError(
            f"Another ODS instance has the id {job.ods_instance_id}, which was reserved for this instance."
            " Remove it and retry, or delete this instance and create it anew."
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
    session: AsyncSession,
    job: InstanceJob,
    connection_string: str,
    renamed: Callable[[str | None], str | None],
) -> None:
    """Give the ODS instance its new name, and the connection string of the renamed database.

    Derivatives that name the database get its new name as well, whichever server they lead to: a physical
    replica has the databases of its primary. Snapshots have names of their own.

    Args:
        session: the transaction.
        job: the rename.
        connection_string: what routes to the renamed database, encrypted.
        renamed: makes of a derivative's connection string, encrypted, what it is by the database's new name.

    Raises:
        NameTakenError: it cannot have the name.
    """
    if (obstacle := await rename_obstacle(session, job)) is not None:
        raise NameTakenError(obstacle)
    await session.execute(
        update(OdsInstance)
        .where(OdsInstance.ods_instance_id == job.ods_instance_id)
        .values(name=job.final_name, connection_string=connection_string)
    )
    await rename_in_derivatives(session, job.ods_instance_id, renamed)


async def rename_in_derivatives(
    session: AsyncSession, ods_instance_id: int, renamed: Callable[[str | None], str | None]
) -> None:
    """Give the derivatives of an ODS instance their connection strings by the database's new name."""
    derivatives = select(OdsInstanceDerivative).where(
        OdsInstanceDerivative.ods_instance_id == ods_instance_id
    )
    for derivative in await session.scalars(derivatives.with_for_update()):
        derivative.connection_string = renamed(derivative.connection_string)


async def rename_obstacle(session: AsyncSession, job: InstanceJob) -> str | None:
    """Why the ODS instance cannot have its new name; if it can, no other transaction can take it."""
    await lock_name(session, job.final_name)
    if await ods_instance_has_name(session, job.final_name, excluding=job.ods_instance_id):
        return str(name_taken(job.final_name))
    if await session.get(OdsInstance, job.ods_instance_id) is None:
        return f"The ODS instance {job.ods_instance_id} does not exist any more. Delete this instance."
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


def relations_reason(relations: Sequence[str]) -> str:
    """Why an ODS instance to which such rows refer stays."""
    return f"The ODS instance is in use by {', '.join(relations)}."
