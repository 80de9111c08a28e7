"""Changing a database that was found: its comment, its name, whether it is open; all in one transaction.

Nothing is done if another database has the name by then: a statement that waits for a transaction which
exchanges names follows the name. What keeps DDL from being done is reported, with how to end it: a lock of
another session, after `lock_timeout` (`ods/databases/server.py`), or a prepared transaction or a
subscription, which uses a database without a session that could be ended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import asyncpg

from ods.databases.constants import (
    DIVISION_BY_ZERO,
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    NAME_IN_USE,
    OBJECT_IN_USE,
)
from ods.databases.errors import DatabaseFaultError, NotOursError
from ods.databases.lookup import FoundDatabase, changed_meanwhile
from ods.databases.ownership import KnownOwner
from ods.databases.server import Server
from ods.databases.statements import NO_REASONS, execute, fetch_row, fetch_rows, fetch_value, server_clock
from ods.model.revisions import Role

MARK = "COMMENT ON DATABASE %2$I IS %3$L"
OPEN = "ALTER DATABASE %2$I ALLOW_CONNECTIONS true"
CLOSE = "ALTER DATABASE %2$I ALLOW_CONNECTIONS false"

# Fails by a division by zero. It comes after statements that have changed the database: from then on, no
# other session can give the name to another one.
_STILL_THE_SAME = "SELECT 1 / count(*) FROM pg_database WHERE datname = %2$L AND oid = %4$L::oid"
# Workers of the server, such as autovacuum, have no user, and give way to DDL by themselves.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = ANY($1::name[]) AND usesysid IS NOT NULL
"""
_COUNT_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL"
_PAUSE_SECONDS = 0.05
# A lock on the database; otherwise an uncommitted change of the catalogue, such as ALTER DATABASE, which
# locks only the row.
_HOLDERS = """
SELECT pid, usename, application_name, state, xact_start,
       bool_or(locktype = 'object' AND mode <> 'RowExclusiveLock') AS locks_database
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE pid <> pg_backend_pid() AND granted
  AND NOT EXISTS (SELECT FROM pg_locks AS waiting WHERE waiting.pid = pg_locks.pid AND NOT waiting.granted)
  AND (
    locktype = 'object' AND classid = 'pg_database'::regclass
        AND objid = (SELECT oid FROM pg_database WHERE datname = $1)
    OR locktype = 'relation' AND relation = 'pg_database'::regclass AND mode = 'RowExclusiveLock'
)
GROUP BY pid, usename, application_name, state, xact_start
ORDER BY locks_database DESC, xact_start NULLS LAST
LIMIT 1
"""
_USERS = """
SELECT format('the prepared transaction %L', gid) AS what,
       format('COMMIT PREPARED %1$L, or ROLLBACK PREPARED %1$L', gid) AS remedy
FROM pg_prepared_xacts WHERE database = $1
UNION ALL
SELECT format('the subscription %I', subname), format(
    'ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE);'
    ' DROP SUBSCRIPTION %1$I; and its slot on the publisher', subname)
FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid WHERE datname = $1
LIMIT 1
"""


async def change(  # noqa: PLR0913 - what becomes of a database
    session: asyncpg.Connection,
    database: str,
    oid: str | None,
    *statements: str,
    target: str | None = None,
    comment: str = "",
    reasons: Mapping[str, str] = NO_REASONS,
) -> None:
    """Run statements on a database in one message, which is one transaction.

    Args:
        oid: of the database that was found; None if its name is a private one, which no other one gets.
        statements: with `%1$I` for its name, `%2$I` for its name in the end, `%3$L` for the comment.
        target: its name in the end; None: the same.
    """
    message = "; ".join([*statements, *([] if oid is None else [_STILL_THE_SAME])])
    try:
        await execute(session, message, database, target or database, comment, oid or "", reasons=reasons)
    except DatabaseFaultError as fault:
        if fault.sqlstate != DIVISION_BY_ZERO:
            raise
        raise changed_meanwhile(database) from None


async def change_name(  # noqa: PLR0913 - what becomes of a database
    server: Server,
    session: asyncpg.Connection,
    found: FoundDatabase,
    target: str,
    *statements: str,
    guards: Sequence[str] = (),
    comment: str = "",
) -> None:
    """Rename a database, which ends its sessions, then run further statements, see `change`.

    Args:
        target: its name from now on, which may be the same.
        guards: statements without placeholders, which undo everything if they fail.
    """
    current = found.name
    reasons = renaming_reasons(current)
    literal = [guard.replace("%", "%%") for guard in guards]
    rename = [] if current == target else ["ALTER DATABASE %1$I RENAME TO %2$I"]
    try:
        async with server.session() as other, name_holder(other, current):
            changing = change(
                session,
                current,
                found.oid,
                *(*rename, *statements, *literal),
                target=target,
                comment=comment,
                reasons=reasons,
            )
            if not rename:
                await changing
                return
            await end_sessions_until_done(changing, partial(end_sessions, other, current, reasons=reasons))
    except DatabaseFaultError as fault:
        if fault.sqlstate not in NAME_IN_USE:
            raise
        raise NotOursError(target) from None


def renaming_reasons(database: str) -> Mapping[str, str]:
    """Why a database cannot be renamed, by SQLSTATE."""
    return {
        OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        INSUFFICIENT_PRIVILEGE: no_right("rename", database, "CREATEDB and pg_signal_backend"),
    }


def no_right(doing: str, database: str, needed: str = "pg_signal_backend") -> str:
    """Why a step on a database, which ends the sessions on it, is refused for a missing right."""
    return (
        f"The role of ODS_MASTER_DSN may not {doing} the database '{database}' or end the sessions on it."
        f" Make it the owner and grant it {needed}; close the sessions of superusers by hand. Then retry."
    )


async def end_sessions(
    session: asyncpg.Connection, *databases: str, reasons: Mapping[str, str] = NO_REASONS
) -> bool:
    """End the sessions of users on these databases; whether there were any."""
    return bool(await fetch_rows(session, _END_SESSIONS, databases, reasons=reasons))


async def count_sessions(session: asyncpg.Connection, database: str) -> int:
    """How many sessions users have on a database; an ordinary role may not see `backend_type`."""
    count: int = await fetch_value(session, _COUNT_SESSIONS, database)
    return count


async def end_all(end_sessions: Callable[[], Awaitable[object]], seconds: float, reason: str) -> None:
    """End the sessions on a closed database until there are none; after `seconds`, fail for the `reason`."""
    waited_since = monotonic()
    while await end_sessions():
        if monotonic() - waited_since > seconds:
            raise DatabaseFaultError(reason, retryable=True, sqlstate=OBJECT_IN_USE)
        await asyncio.sleep(_PAUSE_SECONDS)


async def end_sessions_until_done(
    statement: Coroutine[Any, Any, None], end_sessions: Callable[[], Awaitable[object]]
) -> None:
    """Run a statement that renames or copies a database, and end the sessions on it until it is done.

    While the statement waits for these sessions, PostgreSQL keeps new ones out. So the database needs not be
    closed first, and stays open if this process dies. `end_sessions` does so by another session.
    """
    running = asyncio.create_task(statement)
    try:
        while not running.done():
            await end_sessions()
            await asyncio.wait([running], timeout=_PAUSE_SECONDS)
    finally:
        running.cancel()
        await asyncio.wait([running])
    await running


def owner_to_mark(owner: KnownOwner, found: FoundDatabase) -> KnownOwner:
    """The owner that a database is marked with.

    The registry knows the revision in the comment, which stays if a job is undone and none is confirmed. What
    a database is made of never changes, and no job ends the protection of its instance.
    """
    marked = found.marked
    if marked is None:
        return owner
    owner = replace(
        owner,
        template=marked.template or owner.template,
        template_generation=marked.template_generation,
        is_protected=marked.is_protected or owner.is_protected,
        left=marked.left,
    )
    if owner.revision is not None:
        return owner
    return replace(
        owner, job_id=marked.job_id, number=marked.number, name=marked.name, revision=marked.revision
    )


def is_marked(found: FoundDatabase, owner: KnownOwner) -> bool:
    """Whether the comment stays: it has the job's revision, or one that the registry does not know.

    Another one would hide that: registry or server was restored to an earlier state. It keeps the database
    from being dropped until an operator has made both agree.
    """
    marked = found.marked
    if marked is None:
        return False
    is_to_stay = marked.role is not Role.STAGING and marked.is_unknown_to(owner)
    return is_to_stay or marked.revision == owner.revision


async def mark_anew(session: asyncpg.Connection, owner: KnownOwner, found: FoundDatabase) -> None:
    """Give a database another revision, and change nothing else."""
    comment = owner_to_mark(owner, found).comment_at(await server_clock(session))
    await change(session, found.name, found.oid, MARK, comment=comment)


@asynccontextmanager
async def name_holder(session: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Name what keeps the statements in the body from being done; the lock of another session is an outage.

    The session is used once the body has failed.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.sqlstate == OBJECT_IN_USE and (user := await fetch_row(session, _USERS, database)):
            raise DatabaseFaultError(
                f"The database '{database}' has {user['what']}, which only a session in it can end:"
                f" {user['remedy']}. If the database is closed, open it for that, and close it afterwards"
                f' (ALTER DATABASE "{database}" ALLOW_CONNECTIONS true; …; false). Then retry.',
                retryable=True,
                sqlstate=OBJECT_IN_USE,
            ) from None
        if fault.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        holder = await fetch_row(session, _HOLDERS, database)
        raise DatabaseFaultError(
            _description(holder, database), outage=True, sqlstate=LOCK_NOT_AVAILABLE
        ) from None


def _description(holder: asyncpg.Record | None, database: str) -> str:
    if holder is None:
        return f"Another session held a lock on the database '{database}' for several seconds."
    since = f"{holder['xact_start']:%Y-%m-%d %H:%M:%S %Z}" if holder["xact_start"] else "an unknown time"
    return (
        f"Another session holds a lock on the database '{database}': process {holder['pid']} of the user"
        f" {holder['usename']}, application '{holder['application_name']}', {holder['state'] or 'busy'},"
        f" its transaction began at {since}. It is waited for; to end it:"
        f" SELECT pg_terminate_backend({holder['pid']})"
    )
