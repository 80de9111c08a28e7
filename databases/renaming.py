"""Renaming an instance's database.

Which name it has now, its mark tells, so that all of this may be repeated after any interruption.
"""

import asyncio

import asyncpg

from databases import errors
from databases.errors import DatabaseFaultError, NotOursError, faults_explained
from databases.ownership import Owner
from databases.provisioning import execute, is_foreign
from databases.server import Server

# The oldest first: a restored dump may carry the comment of the database that it was taken of.
_MARKED = """
SELECT datname, shobj_description(oid, 'pg_database') AS comment FROM pg_database
WHERE position($1 IN shobj_description(oid, 'pg_database')) > 0 ORDER BY oid
"""
# Those of users: others have none, and give way to DDL by themselves.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL
"""
_PAUSE_SECONDS = 0.05


async def own_names(session: asyncpg.Connection, owner: Owner) -> list[str]:
    """Names of the databases that carry the instance's mark: one, or none.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with faults_explained({}):
        marked = await session.fetch(_MARKED, owner.mark)
    return [row["datname"] for row in marked if owner.owns(row["comment"])]


async def rename(server: Server, session: asyncpg.Connection, owner: Owner, database: str) -> None:
    """Give the instance's database the name `database`, if it has another; sessions on it are ended.

    Args:
        server: the server.
        session: a fenced session.
        owner: the instance.
        database: the name that its database shall have.

    Raises:
        NotOursError: a database has that name and is somebody else's.
        DatabaseFaultError: the instance has no database, sessions cannot be ended, the server is away, …
    """
    if await is_foreign(session, owner, database):
        raise NotOursError(database)
    names = await own_names(session, owner)
    if not names:
        raise DatabaseFaultError(
            "No database carries the mark of this instance, so there is none to rename. Restore it, or delete"
            " the instance."
        )
    if database not in names:
        await _rename(server, session, names[0], database)


async def _rename(server: Server, session: asyncpg.Connection, current: str, database: str) -> None:
    reasons = {
        errors.OBJECT_IN_USE: f"Sessions on the database '{current}' do not end. Close them, then retry.",
        errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not rename the database"
        f" '{current}' or end the sessions on it. Make it the owner and grant it CREATEDB and"
        " pg_signal_backend; close the sessions of superusers by hand. Then retry.",
    }
    with faults_explained(reasons):
        try:
            async with server.session() as other:
                await _rename_and_end_sessions(session, other, current, database)
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            raise NotOursError(database) from None


async def _rename_and_end_sessions(
    session: asyncpg.Connection, other: asyncpg.Connection, current: str, database: str
) -> None:
    """One statement renames; while it waits for the sessions to end, it keeps new ones out.

    So the database is open under one name or the other at any moment, whatever dies in between; to close it
    first, as before a DROP, would leave it closed.
    """
    statement = "ALTER DATABASE %I RENAME TO %I"
    renaming = asyncio.create_task(execute(session, statement, current, database))
    try:
        while not renaming.done():
            await other.execute(_END_SESSIONS, current)
            await asyncio.wait([renaming], timeout=_PAUSE_SECONDS)
    finally:
        renaming.cancel()
        await asyncio.wait([renaming])
    await renaming
