"""Activating a database: it gets the instance's name, is opened, and its comment says so.

A rename considers only databases with its two names: another one with the mark is a copy, or the registry is
wrong about the name, and the job stops.
"""

from dataclasses import replace

import asyncpg

from ods.databases.changing import MARK, OPEN, change_name, is_marked, owner_to_mark
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.left_names import back, leaving, require_not_left, require_not_taken
from ods.databases.lookup import (
    choose,
    elsewhere,
    find,
    refusal,
    require_known,
    two_carriers,
    version_in,
    what_is_left,
)
from ods.databases.ownership import KnownOwner, trashed_at
from ods.databases.server import Server
from ods.databases.statements import server_clock
from ods.model.revisions import Role
from ods.registry.instances.naming import is_reset_name, is_trash_name


async def rename(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, current: str, target: str
) -> None:
    """Give the instance's database the name `target`, and end the sessions on it.

    Its comment has the name that it leaves, which is reserved from then on: see `ods.databases.left_names`.
    """
    found = await find(session, owner, current, target)
    if target in found and not owner.owns(found[target].comment):
        raise refusal(found[target], owner)
    database = choose(found, owner, [current, target])
    if database is None and current in found:
        raise NotOursError(current, registered_for=owner.ods_instance_id)
    if database is None:
        way_back = "Restore it: `ods drift` tells what is left of it."
        if (version := version_in(found, owner)) is not None:
            way_back = (
                f"What it had before a reset is in the trash: `ods recover --apply --choose {version}` brings"
                " that back."
            )
        raise DatabaseFaultError(
            f"The instance's database does not exist, so there is none to rename. {way_back} Then request it"
            " again."
        )
    require_known(found[database], owner)
    marked = owner_to_mark(owner, found[database])
    left, guards = leaving(marked.left, current), []
    if database == target:
        has_left = current == target or left[-1] in marked.left
        if has_left and is_marked(found[target], owner):
            return
        left = marked.left if current == target else left
    elif target in found:
        raise DisagreementError(
            target,
            f"Both '{current}' and '{target}' carry the mark of this instance. Nothing was renamed. Remove"
            " the comment of the one that is not the instance's (COMMENT ON DATABASE … IS NULL) and give it"
            " another name, then retry.",
        )
    else:
        guards = [await require_not_left(session, owner, target)]
    comment = replace(marked, left=left).comment_at(await server_clock(session))
    await change_name(server, session, found[database], target, MARK, guards=guards, comment=comment)


async def rename_back(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, database: str, target: str
) -> None:
    """Undo a failed rename to `target`: the database gets back its name `database` and confirmed revision.

    Nothing is done if it does not have the name `target`, a DROP of it was interrupted, or the registry does
    not know its revision: it has got the name by a job that the registry has forgotten.
    """
    found = await find(session, owner, database, target)
    its = {name: row for name, row in found.items() if owner.owns(row.comment)}
    if target not in its or database in its or its[target].is_invalid or its[target].is_unknown_to(owner):
        return
    if database in found:
        raise refusal(found[database], owner)
    marked = owner_to_mark(owner.as_confirmed(), found[target])
    # If the registry was restored, it may have led clients to the name that is left now.
    left = leaving(back(marked.left, database), target)
    comment = replace(marked, left=left).comment_at(await server_clock(session))
    await change_name(server, session, found[target], database, MARK, comment=comment)


async def take_out(  # noqa: PLR0913 - what becomes of a database
    server: Server,
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    database: str,
    *,
    former: str | None = None,
) -> None:
    """Give the database in the trash the name `database`, open it, and mark it as published.

    It may be in the trash under another name than `trash`, if the registry was restored to before another
    delete.

    Args:
        former: the name by which the ODS/API may still know it, the registry's; not that of the comment,
            which may be from a failed undelete. None if it does not matter.
    """
    found = await find(session, owner, database, trash, owner.staging_name)
    if database in found and not owner.owns(found[database].comment):
        raise refusal(found[database], owner, then="")
    owned = [name for name, row in found.items() if owner.owns(row.comment)]
    its = [name for name in owned if name == database or is_trash_name(name)]
    if not its and owned:
        raise elsewhere(owned[0], trash)
    if not its and trash in found and found[trash].is_of(owner):
        raise DisagreementError(
            trash,
            f"The database '{trash}' in the trash carries the mark of this instance, but by its comment it is"
            " not the one that the instance has by the registry: it was changed by hand. Nothing was done to"
            " it. `ods drift` tells which comment it should have; write that if the database is the"
            " instance's, then try again.",
        )
    if not its and trash in found:
        raise NotOursError(trash, in_trash=True)
    if not its:
        raise DatabaseFaultError(
            f"There is no database '{trash}' with the mark of this instance:"
            f" {what_is_left(found, owner) or 'nothing can come back. Restore it, or purge the instance.'}"
        )
    current, *others = its
    if others:
        raise two_carriers(current, others[0])
    if found[current].is_invalid:
        raise DisagreementError(
            current,
            f"A DROP of the database '{current}' was interrupted:"
            f" {what_is_left(found, owner) or 'nothing can come back. Purge it.'}",
        )
    row = found[current]
    require_known(row, owner)
    is_out = row.is_open and row.role is not Role.RETAINED
    if current == database and is_out and is_marked(row, owner):
        return
    opened = replace(owner_to_mark(owner, row), trashed_name=None)
    guards = [] if current == database else [await require_not_left(session, owner, database)]
    if former is not None and former not in {current, database}:
        guards.append(await require_not_taken(session, former, trashed_at(row.comment)))
        opened = replace(opened, left=leaving(opened.left, former))
    comment = opened.comment_at(await server_clock(session))
    await change_name(server, session, row, database, OPEN, MARK, guards=guards, comment=comment)


async def require_no_later(session: asyncpg.Connection, owner: KnownOwner, trash: str) -> None:
    """Refuse an undelete while the instance has another database that the registry does not know.

    Then the registry was restored: the instance has been undeleted and reset since, and what the registry
    knows to be in the trash is what the reset has replaced.
    """
    found = await find(session, owner)
    own = [row for row in found.values() if owner.owns(row.comment)]
    if own and not any(row.is_unknown_to(owner) for row in own):
        return
    for name, row in found.items():
        is_its = name == trash or row in own or is_reset_name(name) or row.is_invalid
        if not is_its and row.is_of(owner) and row.is_unknown_to(owner):
            raise refusal(row, owner, then="")
