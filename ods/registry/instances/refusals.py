"""Why requests for instances are refused, and what helps.

No request takes the data of a protected instance away before a client has ended the protection.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.arguments import Way, drops_database
from ods.model.operations import AT_REST, PURGEABLE, RESETTABLE, InstanceStatus, Operation, next_step
from ods.registry.instances.copies import hold_refusal
from ods.registry.instances.ods_routing import context_obstacle, contexts_to_come_back, kinds_set_aside
from ods.registry.instances.reservations import database_taken, former_name_refusal, name_taken, require_free
from ods.registry.storage.errors import InstanceNotFoundError, NameTakenError, RefusedError, require_granted
from ods.registry.storage.models import (
    LIVE_DATABASE_INDEX,
    LIVE_NAME_INDEX,
    LIVE_ODS_INSTANCE_INDEX,
    NEW_DATABASE_INDEX,
    NEW_NAME_INDEX,
    DbInstance,
)
from ods.registry.storage.sessions import Conflicts


def protection_refusal(instance: DbInstance) -> RefusedError | None:
    """Why the data of the instance must stay; None if it is not protected.

    Each operation that deletes or replaces an instance's data asks this alone. The caller has locked the row,
    so that the protection does not change before its request is committed.
    """
    if not instance.is_protected:
        return None
    first = f"undelete it (`ods instance undelete {instance.id}`), then " if instance.is_in_trash else ""
    return RefusedError(
        instance.status,
        "The instance is protected: its data can be neither deleted nor replaced.",
        f"End the protection first: {first}PATCH /v2/dbInstances/{instance.id} with"
        f' {{"protected": false}}, or `ods instance unprotect {instance.id}`.',
    )


def require_protectable(instance: DbInstance) -> None:
    """Refuse a protection that comes too late.

    Raises:
        RefusedError: a job takes the data of the instance away, or is about to, or has failed at that.
    """
    current = InstanceStatus(instance.status)
    if current != InstanceStatus.COMPLETED and instance.rules.takes_data:
        raise state_refusal(instance, "protected")


async def reset_refusals(session: AsyncSession, instance: DbInstance) -> list[RefusedError]:
    """Every reason for which no other database can take the place of the locked instance's."""
    return [
        *state_refusals(instance, RESETTABLE, "reset"),
        *filter(None, [protection_refusal(instance), await hold_refusal(session, instance)]),
        *unended_reset_refusals(instance),
    ]


def unended_reset_refusals(instance: DbInstance) -> list[RefusedError]:
    """Why each request must wait that would forget the replacement in the row."""
    if instance.replacement is None or instance.status not in AT_REST:
        return []
    reason = "What a failed or cancelled reset has done is not undone yet."
    next_step = (
        "It is undone within minutes, once the PostgreSQL server answers; `ods drift` tells of it until then."
    )
    return [RefusedError(instance.status, reason, next_step)]


def not_adopted(instance: DbInstance) -> RefusedError:
    """Why nothing is done to an instance that an Admin API works on, beside this service."""
    return RefusedError(
        instance.status,
        "Another product has added the instance, and this service has not adopted it yet.",
        "The next sweep adopts it, or says in its errorMessage why not; `ods sweep` sweeps at once. While the"
        " other product works on it, only `ods migrate` does.",
    )


def not_undone_refusals(instance: DbInstance) -> list[RefusedError]:
    """Why a request must wait that would forget which other name the database may have.

    A delete, or a repeated request, looks for it under that name as well.
    """
    if not instance.undo_due or instance.status not in AT_REST:
        return []
    reason = "What a failed or cancelled job has done to the database's name is not undone yet."
    next_step = (
        "It is undone within minutes, once the PostgreSQL server answers. Or request the same again, which"
        " goes on with it."
    )
    return [RefusedError(instance.status, reason, next_step)]


def require_state(instance: DbInstance, states: Collection[InstanceStatus], verb: str) -> None:
    """Refuse a request for an instance in none of the `states`; `verb` as in "cannot be renamed"."""
    require_granted(state_refusals(instance, states, verb))


def state_refusals(instance: DbInstance, states: Collection[InstanceStatus], verb: str) -> list[RefusedError]:
    """The refusal of `require_state` as a list, for callers that report every reason at once."""
    return [] if instance.status in states else [state_refusal(instance, verb)]


def purge_refusals(instance: DbInstance, way: Way | None) -> list[RefusedError]:
    """Every reason for which a delete of this way cannot purge an instance in the trash."""
    match way:
        case Way.LEAVE:
            next_step = "Undelete it, then detach its database."
            return [RefusedError(instance.status, "The instance is in the trash.", next_step)]
        case Way.TRASH | Way.DROP | None:
            state = state_refusals(instance, PURGEABLE, "purged")
            return [*state, *filter(None, [protection_refusal(instance)])]
        case _:
            assert_never(way)


def require_created(instance: DbInstance, verb: str) -> None:
    """Refuse a request for an instance whose last job has left it without a usable database."""
    if instance.status == InstanceStatus.ERROR and not instance.rules.keeps_instance:
        raise state_refusal(instance, verb)


def set_aside_refusals(instance: DbInstance, forgotten: Mapping[str, str], way: Way) -> list[RefusedError]:
    """Why a delete must wait that would forget what a failed delete has set aside.

    `forgotten` are contexts that it may forget. A delete that drops the database may also forget what a purge
    has set aside, which was to forget it as well; a detach may not, for the database stays in use.
    """
    kinds = kinds_set_aside(instance.set_aside, forgotten)
    was_purge = drops_database(Operation(instance.operation), instance.arguments)
    # `way` is the trash if a purge follows the delete, or if there never was a database.
    if not kinds or (was_purge and way is not Way.LEAVE):
        return []
    kept = ", ".join(kinds)
    if was_purge:
        reason = f"The purge that has failed keeps {kept} of the instance until the database is dropped."
        next_step = (
            "Move the database to the trash, by a delete without `purge` while ODS_TRASH_DAYS is not 0. Then"
            " undelete the instance, remove them and detach it."
        )
    else:
        reason = f"The delete that has failed keeps {kept} of the instance for the trash."
        next_step = (
            f"Retry it (`ods instance retry {instance.id}`), which moves them there with the database. Then"
            " purge the instance; or undelete it, remove them and detach it."
        )
    return [RefusedError(instance.status, reason, next_step)]


def name_not_free(reason: str) -> RefusedError:
    """Why an instance cannot be undeleted under a name that is not free, and the way out."""
    return RefusedError(
        InstanceStatus.DELETED,
        reason.removesuffix(" Choose another name."),
        'Undelete the instance under another name: {"name": "…"}.',
    )


def state_refusal(instance: DbInstance, verb: str) -> RefusedError:
    """Why something cannot be done to an instance in its present state, and what helps."""
    current = InstanceStatus(instance.status)
    reason = f"An instance in state {current} cannot be {verb}."
    return RefusedError(current, reason, next_step(current))


def not_deleted(instance: DbInstance) -> RefusedError:
    """Why an instance cannot be undeleted that is not in the trash; a version from before a reset may be."""
    refusal = state_refusal(instance, "undeleted")
    back = (
        f"What it had before a reset comes back by `ods instance undo-reset {instance.id} --database NAME`"
        f" (POST /v2/dbInstances/{instance.id}/reset/undo)."
    )
    return RefusedError(instance.status, refusal.reason, f"{refusal.next_step} {back}")


def name_conflicts(name: str, database: str) -> Conflicts:
    """The answer to a request if another one takes one of the names at the same time."""
    return {
        LIVE_NAME_INDEX: partial(name_taken, name),
        LIVE_DATABASE_INDEX: partial(database_taken, database),
    }


_NAMES = (LIVE_NAME_INDEX, LIVE_DATABASE_INDEX, NEW_NAME_INDEX, NEW_DATABASE_INDEX)
_NAME_TAKEN = "Another instance has taken the name, or the name of the database."
UNDELETE_CONFLICTS: Conflicts = {
    **dict.fromkeys(_NAMES, partial(name_not_free, _NAME_TAKEN)),
    LIVE_ODS_INSTANCE_INDEX: partial(
        RefusedError,
        InstanceStatus.DELETED,
        "Another instance has its OdsInstanceId: the registry was restored, or changed by hand.",
        "Delete the other instance, then undelete this one; or purge this one.",
    ),
}


async def require_place(session: AsyncSession, instance: DbInstance, name: str, database: str) -> None:
    """Refuse that an instance comes back from the trash under these names."""
    try:
        await require_free(session, name, database, excluding=instance)
    except NameTakenError as error:
        raise name_not_free(str(error)) from None
    if (refusal := await former_name_refusal(session, instance, database)) is not None:
        raise refusal
    wanted_contexts = contexts_to_come_back(instance.set_aside, instance.reserved_contexts)
    obstacle = await context_obstacle(session, instance.ods_instance_id, wanted_contexts)
    if obstacle is not None:
        next_step = (
            "Give the other instance other contexts (PATCH /v2/dbInstances/{id}, `ods instance contexts`),"
            " then undelete this one."
        )
        raise RefusedError(InstanceStatus.DELETED, obstacle, next_step)


async def locked_instance(
    session: AsyncSession, instance_id: int, *, in_trash: bool = False, nowait: bool = False
) -> DbInstance:
    """The live instance with this id, locked; with `in_trash`, also one in the trash.

    No other session changes its row before the transaction ends. Waits if another session has locked it; with
    `nowait`, PostgreSQL refuses at once.
    """
    return await found_instance(session, instance_id, in_trash=in_trash, lock={"nowait": nowait})


async def found_instance(
    session: AsyncSession, instance_id: int, *, in_trash: bool = False, lock: dict[str, Any] | None = None
) -> DbInstance:
    """The same without a lock, or with these options of `FOR UPDATE`."""
    instance = await session.get(DbInstance, instance_id, with_for_update=lock)
    if instance is None or not (instance.is_live or (in_trash and instance.is_in_trash)):
        raise InstanceNotFoundError(instance_id)
    if not instance.is_adopted:
        raise not_adopted(instance)
    return instance
