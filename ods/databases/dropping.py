"""Dropping databases: an instance's, what a clone has left, and spares.

Who may do so, says `ods.databases.droppable`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic

import asyncpg

from ods.databases.changing import CLOSE, OPEN, change, end_all, name_holder, no_right
from ods.databases.constants import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_CONNECTION_LIMIT,
    LOCK_NOT_AVAILABLE,
    OBJECT_IN_USE,
    PROGRAMS,
    WRONG_OBJECT_TYPE,
    program_name,
)
from ods.databases.droppable import deletable, find_in_trash, require_not_put_back
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.lookup import DatabaseRows, FoundDatabase, find
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.statements import execute, fetch_rows
from ods.registry.instances.naming import is_trash_name

DROP = "DROP DATABASE IF EXISTS %I WITH (FORCE)"
# These two fail by a division by zero. What an operator has released, or taken out of the trash, is not ours
# to drop.
_HAS_ITS_COMMENT = (
    "SELECT 1 / count(*) FROM pg_database"
    " WHERE datname = %1$L AND shobj_description(oid, 'pg_database') = %3$L"
)
_IS_CLOSED = "SELECT 1 / count(*) FROM pg_database WHERE datname = %1$L AND NOT datallowconn"
_IS_HALF_DROPPED = f"""
SELECT 1 / count(*) FROM pg_database WHERE datname = %1$L AND datconnlimit = {INVALID_CONNECTION_LIMIT}
"""  # noqa: S608 - a constant
# Not replication sessions: PostgreSQL refuses to drop a database whose replication slot is in use.
_END_CLIENTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = $1 AND backend_type = 'client backend'
"""
_LONGEST_WAIT_SECONDS = 5
"""For sessions to end, and for locks of other sessions; PostgreSQL itself waits as long for sessions."""
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE = "5s"
"""How long a session may be idle between the question whether to drop a database, and the DROP."""
# Programs run as the service's role, or as the role that restores, of which it is a member.
_END_PROGRAMS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pg_has_role(usesysid, 'USAGE') AND application_name = ANY($1::text[])
"""


async def drop(
    session: asyncpg.Connection,
    owner: KnownOwner,
    names: list[str],
    *,
    published: bool,
    before: Callable[[], Awaitable[object]],
) -> None:
    """Drop the instance's database and what a clone may have left, for a delete that a client has requested.

    Args:
        published: whether the instance ever had that database. If not, a database of the first name without
            its mark is why the create failed: it is left alone.
    """
    found = await find(session, owner, *names, owner.staging_name)
    database = deletable(found, owner, names, published=published, drops=True)
    await drop_found_staging(session, owner, found)
    if database is not None:
        await drop_found(session, found[database], before)


async def purge(
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    *,
    replaced: bool = False,
    before: Callable[[], Awaitable[object]],
) -> bool:
    """Drop the database in the trash; whether there was one. See `find_in_trash`, `require_not_put_back`."""
    row = await find_in_trash(session, owner, trash, replaced=replaced)
    if row is None:
        return False
    require_not_put_back(row)
    await drop_found(session, row, before)
    return True


async def drop_obstacle(
    session: asyncpg.Connection, owner: KnownOwner, names: list[str], *, drops: bool = False
) -> str | None:
    """Why a delete would refuse the published database of these names (`deletable`); None if it would not."""
    found = await find(session, owner, *names)
    try:
        deletable(found, owner, names, published=True, drops=drops)
    except (NotOursError, DisagreementError) as refusal:
        return refusal.reason
    return None


async def drop_staging(session: asyncpg.Connection, owner: Owner) -> None:
    """Drop what a clone for the instance has left; it was never published."""
    await drop_found_staging(session, owner, await find(session, owner, owner.staging_name))


async def drop_found_staging(session: asyncpg.Connection, owner: Owner, found: DatabaseRows) -> None:
    """Drop the instance's staging database if it is among those that were `found`."""
    if owner.staging_name in found:
        await end_programs(session, owner.staging_name)
        await execute(session, DROP, owner.staging_name)


async def end_programs(session: asyncpg.Connection, label: str) -> None:
    """End the sessions of programs that work for `label`, and whose worker was given up.

    While PostgreSQL waits for the program of a suspended worker to read or to send, it can drop no database
    of the server.
    """
    await fetch_rows(session, _END_PROGRAMS, [program_name(program, label) for program in PROGRAMS])


async def drop_database(session: asyncpg.Connection, database: str, *, invalid: bool) -> None:
    """Close and drop a database that was never an instance's; or drop what a DROP has left, if `invalid`."""
    reasons = _reasons(database)
    async with name_holder(session, database):
        if not invalid:
            await change(session, database, None, CLOSE, reasons=reasons)
        await execute(session, DROP, database, reasons=reasons)


async def drop_rest(session: asyncpg.Connection, half_dropped: FoundDatabase) -> None:
    """Drop what an interrupted DROP has left, of whatever database."""
    await drop_found(session, half_dropped, _nothing)


async def _nothing() -> None:
    """What is asked before the rest of a half-dropped database is dropped."""


async def drop_found(
    session: asyncpg.Connection,
    found: FoundDatabase,
    before: Callable[[], Awaitable[object]],
    *,
    closed: bool = False,
) -> None:
    """Close an instance's database, end the sessions on it, and drop it.

    It must have the OID and the comment that were found when it is closed, and still when it is dropped; also
    one whose DROP was interrupted: an operator may have put another one in its place.

    Args:
        before: raises if the database is not to be dropped any more; awaited before each try, when its
            sessions have ended. Not if an earlier DROP of it was interrupted: nothing can come back then.
        closed: whether it is closed, and shall not be changed by being closed once more.
    """
    reasons = _reasons(found.name)
    async with name_holder(session, found.name):
        if not (closed or found.is_invalid):
            # It is closed first: otherwise connection pools come back as fast as their sessions are ended.
            # But what was found closed, and an operator has opened since, must not pass for closed.
            guards = [] if found.is_open else [_IS_CLOSED]
            await _change_as_found(session, found, *guards, CLOSE, reasons=reasons)
        if not found.is_invalid:
            ending = partial(fetch_rows, session, _END_CLIENTS, found.name, reasons=reasons)
            await end_all(ending, _LONGEST_WAIT_SECONDS, reasons[OBJECT_IN_USE])
        await _drop_if_due(session, found, before, reasons)


def _reasons(database: str) -> Mapping[str, str]:
    return {
        OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        INSUFFICIENT_PRIVILEGE: no_right("remove", database),
        WRONG_OBJECT_TYPE: f"The database '{database}' is marked as a template. If it is not needed as one:"
        f' ALTER DATABASE "{database}" IS_TEMPLATE false. Then retry.',
    }


async def _drop_if_due(
    session: asyncpg.Connection,
    found: FoundDatabase,
    before: Callable[[], Awaitable[object]],
    reasons: Mapping[str, str],
) -> None:
    """Drop a closed database without sessions, unless `before` raises; or the rest of a half-dropped one.

    A DROP that waits for a lock does not notice that a client cancels meanwhile, nor that the holder of the
    lock gives the name to another database: so it does not wait. And if a worker is suspended after it has
    asked, PostgreSQL ends its session before the worker goes on with the DROP.
    """
    # Both hold until the session returns to its pool; after an error, it is closed. 1 ms is the shortest.
    await execute(session, f"SET lock_timeout = '1ms'; SET idle_session_timeout = '{_LONGEST_PAUSE}'")
    waited_since = monotonic()
    while True:
        if not found.is_invalid:
            await before()
        guard = _IS_HALF_DROPPED if found.is_invalid else _IS_CLOSED
        await _change_as_found(session, found, guard, reasons=reasons)
        try:
            await execute(session, DROP, found.name, reasons=reasons)
        except DatabaseFaultError as fault:
            is_over = monotonic() - waited_since > _LONGEST_WAIT_SECONDS
            if is_over or fault.sqlstate != LOCK_NOT_AVAILABLE:
                raise
        else:
            await execute(session, "SET idle_session_timeout = 0")  # what follows may have to wait
            return
        await asyncio.sleep(_PAUSE_SECONDS)


async def _change_as_found(
    session: asyncpg.Connection, found: FoundDatabase, *statements: str, reasons: Mapping[str, str]
) -> None:
    as_found, comment = (_HAS_ITS_COMMENT, *statements), found.comment or ""
    await change(session, found.name, found.oid, *as_found, comment=comment, reasons=reasons)


async def open_again(session: asyncpg.Connection, owner: Owner, names: list[str]) -> None:
    """Open the instance's database if a drop has closed it and was then given up.

    `pg_dumpall` would silently leave out a closed one.
    """
    for name, row in (await find(session, owner, *names)).items():
        its = name in names and owner.owns(row.comment) and not is_trash_name(name)
        if its and not row.is_open and not row.is_invalid:
            await change(session, name, row.oid, OPEN)
