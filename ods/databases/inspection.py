"""What is on the ODS server: databases and what their comments say, and directories without a database."""

import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT, STAGING_PREFIX
from ods.databases.ownership import Owner, opened_by, published_at
from ods.databases.snapshot_marks import SnapshotMark
from ods.databases.spares import is_spare
from ods.databases.statements import fetch_rows, fetch_value
from ods.registry.instances.naming import is_reset_name, is_trash_name

_STAGING = re.compile(rf"{STAGING_PREFIX}([0-9a-f]{{32}})")
_DATABASES = """
SELECT datname, datallowconn, datistemplate, datconnlimit = $1 AS invalid,
       shobj_description(oid, 'pg_database') AS comment
FROM pg_database
"""
_SIZES = """
SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
                     THEN pg_database_size(oid) END AS size
FROM pg_database WHERE datname = ANY($1::name[])
"""
# A database that is being made or dropped has a directory but no row that other sessions see. The session
# that does it holds this lock; the statements of other sessions, an ordinary role may not see.
_DDL_IS_RUNNING = """
SELECT count(*) FROM pg_locks
WHERE relation = 'pg_database'::regclass AND mode = 'RowExclusiveLock' AND granted
"""
# Asked first, so that a role without the right leaves no error in the server's log at every pass.
_MAY_LIST_DIRECTORIES = "SELECT has_function_privilege('pg_ls_dir(text)', 'execute')"
_UNKNOWN_DIRECTORIES = """
SELECT name FROM pg_ls_dir('base') AS name
WHERE name ~ '^[0-9]+$' AND name::oid NOT IN (SELECT oid FROM pg_database)
"""


@dataclass(frozen=True)
class Database:
    """One database of the server.

    Attributes:
        name: its name.
        owner: what its comment says; None if that is not one of ours.
        published_at: when that comment was written; None if it does not say.
        mark: the mark of the instance that it belongs to, by its private name or its comment.
        staging: whether it has the private name of a database that is not published.
        spare: whether it has the name of a spare, of any installation.
        trash: whether it has a name of the trash, of any installation.
        snapshot: what its comment says as that of a snapshot; None if it is none.
        reset: whether it has the private name of a database that shall take the place of another.
        open: whether it accepts connections.
        template: whether it is marked as a template.
        invalid: whether a DROP of it was interrupted.
        opened_by: of one in the trash, the job that has opened it to back it up; None if none has.
    """

    name: str
    owner: Owner | None
    published_at: datetime | None
    mark: str | None
    staging: bool
    spare: bool
    trash: bool
    snapshot: SnapshotMark | None
    reset: bool
    open: bool
    template: bool
    invalid: bool
    opened_by: str | None = None


async def databases(session: asyncpg.Connection) -> list[Database]:
    """All databases of the server.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return [_database(row) for row in await fetch_rows(session, _DATABASES, INVALID_CONNECTION_LIMIT)]


def published_last(databases: Collection[Database]) -> Database | None:
    """Which of these databases of one instance was published, or put into the trash, last.

    None if their comments do not tell. A registry that was restored gives numbers of jobs again: so the times
    must not say otherwise. Of the two that a reset has exchanged, which tell the same, the open one is later.
    """
    ranked = sorted(databases, key=_rank, reverse=True)
    last, others = ranked[:1], ranked[1:]
    return last[0] if last and not any(_may_be_later(one, last[0]) for one in others) else None


def _rank(database: Database) -> tuple[int, int, bool]:
    number, attempt = database.owner.publication if database.owner else (0, 0)
    return number, attempt, not database.trash


def _may_be_later(one: Database, last: Database) -> bool:
    """Whether it may have been published later than the one whose number is the last."""
    if _rank(one) == _rank(last):
        return True
    if _rank(one)[:2] == _rank(last)[:2] or one.published_at is None or last.published_at is None:
        return False
    return one.published_at > last.published_at


async def sizes(session: asyncpg.Connection, names: Sequence[str]) -> dict[str, int | None]:
    """Sizes in bytes of those of these databases that exist; None if our role may not see it.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return {row["datname"]: row["size"] for row in await fetch_rows(session, _SIZES, names)}


async def orphan_directories(session: asyncpg.Connection) -> list[str]:
    """Directories of databases that do not exist; none if the role may not list them, or DDL is running.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    if not await fetch_value(session, _MAY_LIST_DIRECTORIES) or await fetch_value(session, _DDL_IS_RUNNING):
        return []
    return [row["name"] for row in await fetch_rows(session, _UNKNOWN_DIRECTORIES)]


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
        trash=is_trash_name(row["datname"]),
        snapshot=SnapshotMark.read(row["comment"]),
        reset=is_reset_name(row["datname"]),
        open=row["datallowconn"],
        template=row["datistemplate"],
        invalid=row["invalid"],
        opened_by=opened_by(row["comment"]),
    )


def _mark(text: object) -> str | None:
    """A mark as the registry writes it; a comment may hold anything."""
    try:
        return str(uuid.UUID(text)) if isinstance(text, str) else None
    except ValueError:
        return None
