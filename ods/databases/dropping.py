"""Dropping databases: an instance's, what a clone has left, and spares.

Who may do so, says `ods.databases.droppable`; of a spare, a session holds the lock instead of a fence.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic

import asyncpg

from ods.databases.changing import CLOSE, OPEN, change, end_all
from ods.databases.constants import (
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    OBJECT_IN_USE,
    PROGRAMS,
    WRONG_OBJECT_TYPE,
    program_name,
)
from ods.databases.droppable import deletable, find_in_trash, require_not_put_back
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.lock_holders import name_holder
from ods.databases.lookup import DatabaseRows, FoundDatabase, find
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.statements import execute, fetch_rows
from ods.registry.instances.naming import is_trash_name

_DROP = "DROP DATABASE IF EXISTS %I WITH (FORCE)"
# By a division by zero. What an operator has let go, or taken out of the trash, is not ours to drop.
_HAS_ITS_COMMENT = (
    "SELECT 1 / count(*) FROM pg_database"
    " WHERE datname = %1$L AND shobj_description(oid, 'pg_database') = %3$L"
)
_IS_CLOSED = "SELECT 1 / count(*) FROM pg_database WHERE datname = %1$L AND NOT datallowconn"
# Not those that replicate from it: PostgreSQL refuses to drop a database whose replication slot is in use.
_END_CLIENTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = $1 AND backend_type = 'client backend'
"""
# For sessions to end, and for locks of other sessions: as long as PostgreSQL itself waits for the former.
_LONGEST_WAIT_SECONDS = 5
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE = "5s"
"""How long a session may do nothing between the question whether to drop a database, and the DROP."""
# Those of the service's role, and of the one that restores, of which it is a member.
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
    """Drop the instance's database with the sessions on it, and what a clone may have left.

    Only for a delete that a client has requested, and that the registry records under the instance's mark.

    Args:
        published: whether the instance ever had that database. If not, a database of the first name that does
            not carry the mark is the reason why the instance never came to be, and is left alone.
    """
    found = await find(session, owner, *names, owner.staging_name)
    database = deletable(found, owner, names, published=published, drops=True)
    await drop_found_staging(session, owner, found)
    if database is not None:
        row = found[database]
        await drop_database(session, database, invalid=row.is_invalid, found=row, before=before)


async def purge(
    session: asyncpg.Connection,
    owner: KnownOwner,
    trash: str,
    *,
    replaced: bool = False,
    before: Callable[[], Awaitable[object]],
) -> bool:
    """Drop the database that has the name `trash`, if registry and server agree that it is in the trash.

    Nothing is done if no database carries the mark any more. Returns whether one was dropped.

    Refuses, beside that, a database that an undelete which did not end has published.
    """
    row = await find_in_trash(session, owner, trash, replaced=replaced)
    if row is None:
        return False
    require_not_put_back(row)
    await drop_database(session, trash, invalid=row.is_invalid, found=row, before=before)
    return True


async def drop_obstacle(
    session: asyncpg.Connection, owner: KnownOwner, names: list[str], *, drops: bool = False
) -> str | None:
    """Why a delete would refuse the published database of these names; None if it would not.

    Args:
        drops: whether the delete drops the database; if not, that can come back, or stays.
    """
    found = await find(session, owner, *names)
    try:
        deletable(found, owner, names, published=True, drops=drops)
    except (NotOursError, DisagreementError) as refusal:
        return refusal.reason
    return None


async def drop_staging(session: asyncpg.Connection, owner: Owner) -> None:
    """Drop what a clone for the instance has left, which was never published."""
    await drop_found_staging(session, owner, await find(session, owner, owner.staging_name))


async def drop_found_staging(session: asyncpg.Connection, owner: Owner, found: DatabaseRows) -> None:
    """Drop the instance's staging database if it is among those that were `found`."""
    if owner.staging_name in found:
        await end_programs(session, owner.staging_name)
        await execute(session, _DROP, owner.staging_name)


async def end_programs(session: asyncpg.Connection, label: str) -> None:
    """End the sessions of the programs that work for `label`, which nothing waits for any more.

    A worker that was suspended holds its programs up. PostgreSQL cannot drop any database of the server while
    a session waits for such a program to read what it is sent, or to send more.
    """
    await fetch_rows(session, _END_PROGRAMS, [program_name(program, label) for program in PROGRAMS])


async def drop_database(  # noqa: PLR0913 - which database, and what must hold
    session: asyncpg.Connection,
    database: str,
    *,
    invalid: bool,
    closed: bool = False,
    found: FoundDatabase | None = None,
    before: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Close a database, end the sessions on it, and drop it.

    Args:
        invalid: whether an earlier DROP of it was interrupted: then it is closed already.
        closed: whether it is closed, and shall not be changed by being closed once more.
        found: the same as it was found to be one that may be dropped; it must have that OID and that comment
            when it is closed, and still when it is dropped. None if it was never an instance's.
        before: raises if the database is not to be dropped any more; awaited before each try, when its
            sessions have ended. Not if an earlier DROP of it was interrupted.
    """
    reasons = {
        OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not remove the database"
        f" '{database}' or end the sessions on it. Make it the owner and grant it pg_signal_backend; close"
        " the sessions of superusers by hand. Then retry.",
        WRONG_OBJECT_TYPE: f"The database '{database}' is marked as a template. If it is not needed as one:"
        f' ALTER DATABASE "{database}" IS_TEMPLATE false. Then retry.',
    }
    async with name_holder(session, database):
        if not (invalid or closed):
            # Otherwise connection pools come back as fast as their sessions are ended.
            # What an operator has opened since would be closed, and pass for what stayed closed.
            guards = [] if found is None or found.is_open else [_IS_CLOSED]
            await _change_as_found(session, database, found, *guards, CLOSE, reasons=reasons)
        if invalid or before is None:
            await execute(session, _DROP, database, reasons=reasons)
        else:
            ending = partial(fetch_rows, session, _END_CLIENTS, database, reasons=reasons)
            await end_all(ending, _LONGEST_WAIT_SECONDS, reasons[OBJECT_IN_USE])
            await _drop_if_due(session, database, found, before, reasons)


async def _drop_if_due(
    session: asyncpg.Connection,
    database: str,
    found: FoundDatabase | None,
    before: Callable[[], Awaitable[object]],
    reasons: Mapping[str, str],
) -> None:
    """Drop a closed database without sessions, unless `before` raises, which is awaited before each try.

    A DROP that waits for a lock does not learn that its client cancels meanwhile, nor that the session that
    holds it gives the name to another database. So PostgreSQL waits for none. And it ends the session of a
    worker that was suspended after it had asked, before that goes on with the DROP.
    """
    # Until the session returns to its pool; after an error, it is closed. The shortest that there is.
    await execute(session, f"SET lock_timeout = '1ms'; SET idle_session_timeout = '{_LONGEST_PAUSE}'")
    waited_since = monotonic()
    while True:
        await before()
        await _change_as_found(session, database, found, _IS_CLOSED, reasons=reasons)
        try:
            await execute(session, _DROP, database, reasons=reasons)
        except DatabaseFaultError as fault:
            is_over = monotonic() - waited_since > _LONGEST_WAIT_SECONDS
            if is_over or fault.sqlstate != LOCK_NOT_AVAILABLE:
                raise
        else:
            await execute(session, "SET idle_session_timeout = 0")  # what follows may have to wait
            return
        await asyncio.sleep(_PAUSE_SECONDS)


async def _change_as_found(
    session: asyncpg.Connection,
    database: str,
    found: FoundDatabase | None,
    *statements: str,
    reasons: Mapping[str, str],
) -> None:
    if found is None:
        await change(session, database, None, *statements, reasons=reasons)
    else:
        as_found, comment = (_HAS_ITS_COMMENT, *statements), found.comment or ""
        await change(session, database, found.oid, *as_found, comment=comment, reasons=reasons)


async def open_again(session: asyncpg.Connection, owner: Owner, names: list[str]) -> None:
    """Open the instance's database of one of these names, which a DROP has closed that was not done.

    Otherwise `pg_dumpall` would leave it out without a word.
    """
    for name, row in (await find(session, owner, *names)).items():
        its = name in names and owner.owns(row.comment) and not is_trash_name(name)
        if its and not row.is_open and not row.is_invalid:
            await change(session, name, row.oid, OPEN)
