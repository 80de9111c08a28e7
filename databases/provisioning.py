"""Making an instance's database, and removing it: clone, publish, verify, drop.

Everything here runs on a fenced session and may be repeated after any interruption.
"""

from dataclasses import dataclass

import asyncpg

from databases import errors
from databases.errors import DatabaseFaultError, NotOursError, faults_explained
from databases.ownership import Owner
from databases.server import Server
from settings import CloneStrategy

FILE_COPY_FROM_BYTES = 100 * 1024 * 1024
"""Template size from which copying files, with its two checkpoints, beats copying through the WAL."""

_SIZE_TOLERANCE = 0.05
_SIZE_ALLOWANCE_BYTES = 1024 * 1024
"""A clone may differ from its template by this much, for free-space maps and the like."""

INVALID = -2
"""`datconnlimit` of a database whose DROP was interrupted."""


@dataclass(frozen=True)
class CloneRequest:
    """What shall be made: database `database` as a copy of `template`."""

    owner: Owner
    template: str
    database: str
    strategy: CloneStrategy


async def provision(session: asyncpg.Connection, request: CloneRequest) -> int:
    """Make the database, or find that an earlier attempt has made it; returns its size in bytes.

    Raises:
        NotOursError: a database has the wanted name and is somebody else's.
        DatabaseFaultError: the template is missing or in use, a right is missing, the server is away, …
    """
    with faults_explained({}):
        if not await _is_published(session, request.owner, request.database):
            await drop(session, request.owner, request.database, published=True)
            await _clone(session, request)
            await _require_same_size(session, request)
            await _publish(session, request)
        return await _size(session, request.database) or 0


async def verify(server: Server, database: str) -> None:
    """Prove that `database` accepts a connection and answers.

    Raises:
        DatabaseFaultError: it does not.
    """
    async with server.connected(database) as session:
        with faults_explained({}):
            await session.execute("SELECT 1")


async def is_foreign(session: asyncpg.Connection, owner: Owner, database: str) -> bool:
    """Whether the database of that name is somebody else's.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with faults_explained({}):
        found = await _find(session, database)
    return found is not None and not owner.owns(found["comment"])


async def drop(session: asyncpg.Connection, owner: Owner, database: str, *, published: bool) -> None:
    """Remove the instance's database with the sessions on it, and what a clone may have left.

    Args:
        session: a fenced session.
        owner: the instance.
        database: the database's name.
        published: whether the instance ever had that database. If not, a database of that name is somebody
            else's, and the reason why the instance never came to be.

    Raises:
        NotOursError: `published`, and the database of that name is somebody else's.
        DatabaseFaultError: sessions cannot be ended, the server is away, …
    """
    with faults_explained({}):
        await drop_staging(session, owner)
        found = await _find(session, database)
        if found is None:
            return
        if not owner.owns(found["comment"]):
            if published:
                raise NotOursError(database)
            return
        await _drop(session, database, invalid=found["datconnlimit"] == INVALID)


async def drop_staging(session: asyncpg.Connection, owner: Owner) -> None:
    """Remove what an interrupted clone left under the instance's private name.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with faults_explained({}):
        if await _find(session, owner.staging_name) is not None:
            await _execute(session, "DROP DATABASE IF EXISTS %I WITH (FORCE)", owner.staging_name)


async def _is_published(session: asyncpg.Connection, owner: Owner, database: str) -> bool:
    """Whether the instance's database is there, and no removal of it was begun and interrupted."""
    found = await _find(session, database)
    if found is None or not owner.owns(found["comment"]):
        return False
    return bool(found["datallowconn"]) and found["datconnlimit"] != INVALID


async def _clone(session: asyncpg.Connection, request: CloneRequest) -> None:
    size = await _template_size(session, request.template)
    reasons = {
        errors.OBJECT_IN_USE: f"The template '{request.template}' is in use by other sessions. Close them and"
        " keep the template closed (ALTER DATABASE … ALLOW_CONNECTIONS false), then retry.",
        errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not create databases from the template"
        f" '{request.template}'. Grant it CREATEDB and mark the template with IS_TEMPLATE true, then retry.",
    }
    with faults_explained(reasons):
        await _execute(
            session,
            f"CREATE DATABASE %I TEMPLATE %I STRATEGY {_strategy(request, size)} ALLOW_CONNECTIONS false",
            request.owner.staging_name,
            request.template,
        )


async def _template_size(session: asyncpg.Connection, template: str) -> int:
    with faults_explained(
        {
            errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not read the template"
            f" '{template}'. Grant it CONNECT on that database, then retry."
        }
    ):
        size = await _size(session, template)
    if size is None:
        raise DatabaseFaultError(f"The template database '{template}' does not exist. Create it, then retry.")
    return size


def _strategy(request: CloneRequest, template_bytes: int) -> str:
    if request.strategy is not CloneStrategy.AUTO:
        return request.strategy.upper()
    by_files = template_bytes >= FILE_COPY_FROM_BYTES
    return (CloneStrategy.FILE_COPY if by_files else CloneStrategy.WAL_LOG).upper()


async def _require_same_size(session: asyncpg.Connection, request: CloneRequest) -> None:
    expected = await _template_size(session, request.template)
    actual = await _size(session, request.owner.staging_name) or 0
    if abs(actual - expected) > _SIZE_TOLERANCE * expected + _SIZE_ALLOWANCE_BYTES:
        raise DatabaseFaultError(
            f"The clone has {actual} bytes, the template '{request.template}' {expected}: it was not"
            " published.",
            retryable=True,
        )


async def _publish(session: asyncpg.Connection, request: CloneRequest) -> None:
    """Mark, open and rename the clone in one transaction: it is there whole, or not at all."""
    staging = request.owner.staging_name
    try:
        async with session.transaction():
            await _execute(session, "COMMENT ON DATABASE %I IS %L", staging, request.owner.comment)
            await _execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS true", staging)
            await _execute(session, "ALTER DATABASE %I RENAME TO %I", staging, request.database)
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        # Somebody took the name while the clone ran.
        await drop_staging(session, request.owner)
        raise NotOursError(request.database) from None


async def _drop(session: asyncpg.Connection, database: str, *, invalid: bool) -> None:
    reasons = {
        errors.OBJECT_IN_USE: f"Sessions on the database '{database}' do not end. Close them, then retry.",
        errors.INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN may not remove the database"
        f" '{database}' or end the sessions on it. Make it the owner and grant it pg_signal_backend; close"
        " the sessions of superusers by hand. Then retry.",
    }
    with faults_explained(reasons):
        if not invalid:
            # Otherwise connection pools come back as fast as their sessions are ended.
            await _execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", database)
        await _execute(session, "DROP DATABASE IF EXISTS %I WITH (FORCE)", database)


async def _find(session: asyncpg.Connection, database: str) -> asyncpg.Record | None:
    return await session.fetchrow(
        "SELECT shobj_description(oid, 'pg_database') AS comment, datallowconn, datconnlimit"
        " FROM pg_database WHERE datname = $1",
        database,
    )


async def _size(session: asyncpg.Connection, database: str) -> int | None:
    size: int | None = await session.fetchval(
        "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1", database
    )
    return size


async def _execute(session: asyncpg.Connection, statement: str, *names: str) -> None:
    """Run DDL, which takes no parameters; PostgreSQL itself quotes the names (%I) and literals (%L)."""
    quoted = await session.fetchval("SELECT format($1, VARIADIC $2::text[])", statement, names)
    await session.execute(quoted)
