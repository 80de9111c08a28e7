"""What is on the ODS server: databases with their comments and sizes, directories without one, free space."""

import asyncio
import re
import shutil
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT, STAGING_PREFIX
from ods.databases.ownership import Owner, opened_by, published_at
from ods.databases.snapshots import SnapshotMark
from ods.databases.statements import fetch_row, fetch_rows, fetch_value
from ods.databases.templates.spares import is_spare
from ods.registry.instances.naming import is_reset_name, is_trash_name

_STAGING = re.compile(rf"{STAGING_PREFIX}[0-9a-f]{{16}}_([0-9a-f]{{32}})")
_DATABASES = """
SELECT datname, datallowconn, datistemplate, datconnlimit = $1 AS invalid,
       pg_has_role(datdba, 'USAGE') AS manageable,
       shobj_description(oid, 'pg_database') AS comment
FROM pg_database
"""
_SIZES = """
SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
                     THEN pg_database_size(oid) END AS size
FROM pg_database WHERE datname = ANY($1::name[])
"""
# A database that is being made or dropped has a directory, but no row that other sessions see. The session
# that does it holds this lock; its statement may be hidden from an ordinary role.
_DDL_IS_RUNNING = """
SELECT count(*) FROM pg_locks
WHERE relation = 'pg_database'::regclass AND mode = 'RowExclusiveLock' AND granted
"""
# Asked first, so that a role without the right leaves no error in the server's log.
_MAY_LIST_DIRECTORIES = "SELECT has_function_privilege('pg_ls_dir(text)', 'execute')"
_UNKNOWN_DIRECTORIES = """
SELECT name FROM pg_ls_dir('base') AS name
WHERE name ~ '^[0-9]+$' AND name::oid NOT IN (SELECT oid FROM pg_database)
"""
_SERVER = """
SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
            THEN current_setting('data_directory') END AS directory,
       extract(epoch FROM pg_postmaster_start_time())::bigint AS started
"""
_PID_FILE = "postmaster.pid"
_START_LINE = 2
"""Counted from 0, with the time at which the server was started."""
_CLOCKS_DIFFER = 2
"""Seconds between the time in that file and the server's own, at most."""


@dataclass(frozen=True)
class Database:
    """One database of the server.

    Attributes:
        owner: what its comment says; None if that is not one of ours.
        published_at: when that comment was written; None if it does not say.
        mark: the mark of its instance, by its private name or its comment.
        staging, spare, trash, reset: whether it has a name of that kind, of any installation.
        manageable: whether our role is its owner, or a member of that.
        opened_by: the job that has opened it in the trash to back it up.
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
    manageable: bool
    opened_by: str | None = None


async def databases(session: asyncpg.Connection) -> list[Database]:
    """All databases of the server."""
    return [_database(row) for row in await fetch_rows(session, _DATABASES, INVALID_CONNECTION_LIMIT)]


def published_last(databases: Collection[Database]) -> Database | None:
    """Which of these databases of one instance was published, or put into the trash, last; None: not known.

    That is the one with the highest number of a job, if no time says otherwise: a restored registry gives
    numbers again. Of the two that a reset has exchanged, which have one number, the open one is the last.
    """
    ranked = sorted(databases, key=_rank, reverse=True)
    last, others = ranked[:1], ranked[1:]
    return last[0] if last and not any(_may_be_later(one, last[0]) for one in others) else None


def _rank(database: Database) -> tuple[int, bool]:
    number = database.owner.number if database.owner else 0
    return number, not database.trash


def _may_be_later(one: Database, last: Database) -> bool:
    if _rank(one) == _rank(last):
        return True
    if _rank(one)[0] == _rank(last)[0] or one.published_at is None or last.published_at is None:
        return False
    return one.published_at > last.published_at


async def sizes(session: asyncpg.Connection, names: Sequence[str]) -> dict[str, int | None]:
    """Sizes in bytes of those databases that exist; None if our role may not see it."""
    return {row["datname"]: row["size"] for row in await fetch_rows(session, _SIZES, names)}


async def orphan_directories(session: asyncpg.Connection) -> list[str]:
    """Directories of databases that do not exist; none if the role may not list them, or DDL is running."""
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
        mark=str(uuid.UUID(staging[1])) if staging else None if owner is None else owner.mark,
        staging=staging is not None,
        spare=is_spare(row["datname"], row["comment"]),
        trash=is_trash_name(row["datname"]),
        snapshot=SnapshotMark.read(row["comment"]),
        reset=is_reset_name(row["datname"]),
        open=row["datallowconn"],
        template=row["datistemplate"],
        invalid=row["invalid"],
        manageable=row["manageable"],
        opened_by=opened_by(row["comment"]),
    )


async def free_space(session: asyncpg.Connection) -> int | None:
    """Bytes that are free where the server makes databases; None if that cannot be known from here."""
    server = await fetch_row(session, _SERVER)
    if server is None or server["directory"] is None:
        return None
    return await asyncio.to_thread(_free_in, Path(server["directory"]), server["started"])


def _free_in(directory: Path, started: int) -> int | None:
    """Free bytes in the data directory, if a server that was started then uses it on this machine."""
    try:
        lines = (directory / _PID_FILE).read_text(encoding="ascii").splitlines()
        is_the_server = abs(int(lines[_START_LINE]) - started) <= _CLOCKS_DIFFER
        return shutil.disk_usage(directory).free if is_the_server else None
    except (OSError, ValueError, IndexError):
        return None
