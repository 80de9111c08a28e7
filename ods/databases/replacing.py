"""Putting another database in the place of an instance's: a fresh one, or one that it had before.

The other one waits under a private name, or in the trash; then one transaction renames both: the instance's
database into the trash, the other one to its name. The registry records it afterwards. Until then, the
database ids in the comments tell how far it is (`Stage`). No database that was ever the instance's is dropped
here.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import asyncpg

from ods.databases.changing import (
    end_sessions,
    end_sessions_until_done,
    is_marked,
    mark_anew,
    name_holder,
    owner_to_mark,
    renaming_reasons,
)
from ods.databases.constants import DIVISION_BY_ZERO, NAME_IN_USE, UNDEFINED_DATABASE
from ods.databases.droppable import made_for_forgotten_resets, was_never_used
from ods.databases.dropping import drop_database
from ods.databases.errors import (
    HOW_TO_RECOVER,
    DatabaseFaultError,
    DisagreementError,
    NotOursError,
)
from ods.databases.lookup import (
    DatabaseRows,
    choose,
    find,
    refusal,
    require_known,
    require_usable,
)
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.server import Server
from ods.databases.statements import execute, server_clock
from ods.model.revisions import Role
from ods.registry.instances.naming import is_trash_name

_CHANGED = {*NAME_IN_USE, UNDEFINED_DATABASE, DIVISION_BY_ZERO}
"""SQLSTATEs of an exchange with databases that are not those that were examined."""

# %1: the instance's database, %2: the one that takes its place, %3: the name of the replaced one; %4 and %5:
# the states that the first two must have, %6 and %7: their comments so far, %8 and %9: their new comments;
# %10: the oids by the names in the end. If anything was changed since it was examined, a division by zero
# undoes everything. The states are compared before the renames, which change them; the comments after them,
# when no other session can write them any more.
_EXCHANGE = (
    "SELECT 1 / count(*) FROM pg_database WHERE datname = %1$L AND oid || ' ' || xmin = %4$L",
    "SELECT 1 / count(*) FROM pg_database WHERE datname = %2$L AND oid || ' ' || xmin = %5$L",
    "ALTER DATABASE %1$I RENAME TO %3$I",
    "ALTER DATABASE %2$I RENAME TO %1$I",
    (
        "SELECT 1 / count(*) FROM pg_database"
        " WHERE datname = %3$L AND shobj_description(oid, 'pg_database') = %6$L"
    ),
    (
        "SELECT 1 / count(*) FROM pg_database"
        " WHERE datname = %1$L AND shobj_description(oid, 'pg_database') = %7$L"
    ),
    "COMMENT ON DATABASE %3$I IS %8$L",
    "ALTER DATABASE %3$I ALLOW_CONNECTIONS false",
    "COMMENT ON DATABASE %1$I IS %9$L",
    "ALTER DATABASE %1$I ALLOW_CONNECTIONS true",
    (
        "SELECT 1 / min((db.oid IS NOT DISTINCT FROM value::oid)::int)"
        " FROM json_each_text(%10$L) LEFT JOIN pg_database AS db ON datname = key"
    ),
)


class Stage(StrEnum):
    """How far a replacement is, as the comments say."""

    NOTHING = "there is no database to take the place"
    READY = "it is there, under its own name"
    EXCHANGED = "it has taken the place"


@dataclass(frozen=True)
class Exchange:
    """Which database takes the place of which.

    Attributes:
        current: the instance with its database, and the revision that this gets in the trash.
        successor: the instance with the database that takes the place, and the revision that this gets.
        database: the name of the instance's database.
        other: the name, until then, of the one that takes its place.
        replaced: the name that the instance's database gets in the trash.
    """

    current: KnownOwner
    successor: KnownOwner
    database: str
    other: str
    replaced: str
    from_trash: bool


async def stage(session: asyncpg.Connection, exchange: Exchange) -> Stage:
    """How far it is."""
    return _stage(await _found(session, exchange), exchange)


async def require_current(session: asyncpg.Connection, exchange: Exchange) -> None:
    """Refuse, before anything is made to take its place, if the instance's database cannot be replaced."""
    _require_current(await _found(session, exchange), exchange)


async def take_place(server: Server, session: asyncpg.Connection, exchange: Exchange) -> Owner | None:
    """Exchange the databases, unless that is done; the sessions on both are ended.

    Returns what the comment of the one that has taken the place says.
    """
    found = await _found(session, exchange)
    match _stage(found, exchange):
        case Stage.EXCHANGED:
            await _mark_exchanged(session, exchange, found)
            return found[exchange.database].marked
        case Stage.READY:
            _require_exchangeable(found, exchange)
            await _exchange(server, session, exchange, found)
            return (await _found(session, exchange))[exchange.database].marked
        case Stage.NOTHING:
            raise DatabaseFaultError(
                f"There is no database '{exchange.other}' with the mark of this instance, which could take"
                " the place of its database. The instance is as it was."
            )


async def discard_other(
    session: asyncpg.Connection, exchange: Exchange, *, deleted: bool = False
) -> Owner | None:
    """Drop what was made to take the place, unless it has taken it; left alone if it may have been used.

    Returns what the comment of the one that has taken the place says; None if none has.
    """
    found = await _found(session, exchange)
    match _stage(found, exchange):
        case Stage.EXCHANGED:
            return found[exchange.database].marked
        case Stage.NOTHING:
            return None
        case Stage.READY:
            its = (found, exchange.current, exchange.other)
            if not exchange.from_trash and was_never_used(*its, deleted=deleted):
                await drop_database(session, exchange.other, invalid=found[exchange.other].is_invalid)
            return None


async def drop_unknown(
    session: asyncpg.Connection, owner: Owner, versions: Collection[str | None], *, deleted: bool = False
) -> None:
    """Drop what was made for forgotten resets, see `made_for_forgotten_resets`."""
    found = await find(session, owner)
    for row in made_for_forgotten_resets(found, owner, versions, deleted=deleted):
        await drop_database(session, row.name, invalid=row.is_invalid)


async def _found(session: asyncpg.Connection, exchange: Exchange) -> DatabaseRows:
    return await find(session, exchange.current, exchange.database, exchange.other, exchange.replaced)


def _stage(found: DatabaseRows, exchange: Exchange) -> Stage:
    names = [name for name, row in found.items() if exchange.successor.owns(row.comment)]
    if exchange.other in names:  # first: an exchange leaves no database of this name, whatever comments say
        return Stage.READY
    if exchange.database in names:
        return Stage.EXCHANGED
    if names:
        raise _has_another_name(names[0], exchange)
    return Stage.NOTHING


def _has_another_name(name: str, exchange: Exchange) -> DisagreementError:
    advice = " Rename it back, then retry."
    if is_trash_name(name):
        advice = f" It is in the trash: the registry was restored to before that. {HOW_TO_RECOVER}"
    return DisagreementError(
        name,
        f"The database '{name}', which is to take the place of '{exchange.database}', should be named"
        f" '{exchange.other}'. Nothing was done to either.{advice}",
    )


def _require_current(found: DatabaseRows, exchange: Exchange) -> None:
    """Refuse an exchange if registry and server do not agree about the instance's database."""
    database = exchange.database
    if database not in found:
        choose(found, exchange.current, [database])  # refuses with the one of another name, if there is one
        raise DisagreementError(
            database,
            f"The instance's database '{database}' does not exist, so nothing can be put in its place."
            " Bring back what it had before a reset (`ods recover --apply --choose NAME`); or make another"
            " instance of a backup (`ods backup restore`), detach it, and hand its database to this one (`ods"
            " instance adopt`, with the id of this one).",
        )
    if not exchange.current.owns(found[database].comment):
        raise refusal(found[database], exchange.current, registered=True)
    require_usable(found[database])
    if exchange.replaced in found:
        raise NotOursError(exchange.replaced)
    require_known(found[database], exchange.current)


def _require_exchangeable(found: DatabaseRows, exchange: Exchange) -> None:
    """Refuse an exchange if registry and server do not agree about each of both databases."""
    _require_current(found, exchange)
    other = exchange.other
    if found[other].is_invalid:
        raise DisagreementError(
            other, f"A DROP of the database '{other}' was interrupted: it cannot take the place of another."
        )
    is_new = found[other].role is Role.STAGING and not exchange.from_trash
    if not is_new:
        require_known(found[other], exchange.successor)
    if exchange.from_trash and found[other].role is not Role.RETAINED:
        raise DisagreementError(
            other, f"The comment of '{other}' does not say that it is in the trash. Nothing was done to it."
        )


async def _mark_exchanged(session: asyncpg.Connection, exchange: Exchange, found: DatabaseRows) -> None:
    """Give databases that an earlier attempt has exchanged the revisions of this one."""
    for owner, name in ((exchange.successor, exchange.database), (exchange.current, exchange.replaced)):
        row = found.get(name)
        if row is not None and owner.owns(row.comment) and not is_marked(row, owner):
            trashed_name = row.marked.trashed_name if row.marked else None
            await mark_anew(session, replace(owner, trashed_name=trashed_name), row)


async def _exchange(
    server: Server, session: asyncpg.Connection, exchange: Exchange, found: DatabaseRows
) -> None:
    database, other, replaced = exchange.database, exchange.other, exchange.replaced
    now, later = found[database], found[other]
    marked = now.marked
    at = await server_clock(session)
    left = marked.left if marked else ()  # the names that the instance has left, whichever database it has
    of_trash = replace(owner_to_mark(exchange.current, now), trashed_name=database, left=())
    of_successor = replace(owner_to_mark(exchange.successor, later), left=left)
    oids = {replaced: int(now.oid), database: int(later.oid)}
    reasons = renaming_reasons(database)
    try:
        async with server.session() as watcher, name_holder(watcher, database):
            exchanging = execute(
                session,
                "; ".join(_EXCHANGE),
                *(database, other, replaced),
                *(now.state, later.state, now.comment or "", later.comment or ""),
                *(of_trash.comment_at(at), of_successor.comment_at(at)),
                json.dumps(oids),
                reasons=reasons,
            )
            await end_sessions_until_done(
                exchanging, partial(end_sessions, watcher, database, other, reasons=reasons)
            )
    except DatabaseFaultError as fault:
        if fault.sqlstate not in _CHANGED:
            raise
        raise DatabaseFaultError(
            f"Another session has changed '{database}' or '{other}' meanwhile. Neither was renamed.",
            retryable=True,
            sqlstate=fault.sqlstate,
        ) from None
