"""What is on the server: its databases and what they say of themselves."""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from databases.errors import translate_postgres_errors
from databases.ownership import STAGING_PREFIX, Owner, published_at
from databases.spares import INVALID, is_spare

_STAGING = re.compile(rf"{STAGING_PREFIX}([0-9a-f]{{32}})")
_DATABASES = """
SELECT datname, datallowconn, datistemplate, datconnlimit = $1 AS invalid,
       shobj_description(oid, 'pg_database') AS comment
FROM pg_database
"""
# A database that is being made or dropped has a directory but no row that others see. Whoever does that holds
# this lock; what others execute, an ordinary role may not see.
_DDL_IS_RUNNING = """
SELECT count(*) FROM pg_locks
WHERE relation = 'pg_database'::regclass AND mode = 'RowExclusiveLock' AND granted
"""
# Asked first, so that a role without the right leaves no error in the server's log at every pass.
_MAY_LOOK = "SELECT has_function_privilege('pg_ls_dir(text)', 'execute')"
_UNKNOWN_DIRECTORIES = """
SELECT name FROM pg_ls_dir('base') AS name
WHERE name ~ '^[0-9]+$' AND name::oid NOT IN (SELECT oid FROM pg_database)
"""


@dataclass(frozen=True)
class Database:
    """One database of the server.

    `owner` is what its comment says, and `published_at` when it was written; `mark` is that of the instance
    it says it belongs to, by its comment or by its private name.
    """

    name: str
    owner: Owner | None
    published_at: datetime | None
    mark: str | None
    staging: bool
    spare: bool
    open: bool
    template: bool
    invalid: bool


async def databases(session: asyncpg.Connection) -> list[Database]:
    """All databases of the server.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        return [_database(row) for row in await session.fetch(_DATABASES, INVALID)]


async def orphan_directories(session: asyncpg.Connection) -> list[str]:
    """Directories of databases that do not exist; none if the role may not look, or DDL is running.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        if not await session.fetchval(_MAY_LOOK) or await session.fetchval(_DDL_IS_RUNNING):
            return []
        return [row["name"] for row in await session.fetch(_UNKNOWN_DIRECTORIES)]


def _database(row: asyncpg.Record) -> Database:
    staging = _STAGING.fullmatch(row["datname"])
    owner = Owner.read(row["comment"])
    return Database(
        name=row["datname"],
        owner=owner,
        published_at=published_at(row["comment"]),
        mark=_mark(staging[1] if staging else owner and owner.mark),
        staging=staging is not None,
        spare=is_spare(row["datname"]),
        open=row["datallowconn"],
        template=row["datistemplate"],
        invalid=row["invalid"],
    )


def _mark(text: object) -> str | None:
    """A mark as the registry writes it; a comment may hold anything."""
    try:
        return str(uuid.UUID(text)) if isinstance(text, str) else None
    except ValueError:
        return None
