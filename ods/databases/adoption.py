"""Handing a database over to an instance that did not make it: inspecting it, and writing the mark on it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from ods.databases.constants import DIVISION_BY_ZERO, INVALID_CONNECTION_LIMIT
from ods.databases.errors import DatabaseFaultError, NameLeftError, translate_postgres_errors
from ods.databases.left_names import require_not_left
from ods.databases.lookup import (
    changed_meanwhile,
    find,
    handing_back,
    is_invalid,
    shares_instance,
    still_the_same,
)
from ods.databases.ownership import Owner, trashed_at
from ods.databases.snapshot_marks import SnapshotMark
from ods.databases.statements import execute, fetch_row, fetch_value, server_clock
from ods.registry.instances.naming import is_reset_name, is_trash_name

_INSPECT = """
SELECT pg_get_userbyid(datdba) AS owner, pg_has_role(datdba, 'USAGE') AS manageable,
       CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(oid) END AS size_bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datid = pg_database.oid) AS sessions,
       shobj_description(oid, 'pg_database') AS comment,
       datistemplate OR datname = current_database() AS needed, datconnlimit = $2 AS invalid,
       oid::text AS oid
FROM pg_database WHERE datname = $1
"""
# Two registries may name one database: the second to hold this lock finds the mark of the first.
_LOCK_ADOPTION = "SELECT pg_advisory_xact_lock(hashtextextended('ods adopt ' || $1, 0))"


@dataclass(frozen=True)
class Candidate:
    """A database that an instance shall get.

    Attributes:
        name: its name.
        owner: the role that owns it.
        size_bytes: its size; None if our role may not see it.
        sessions: how many there are on it.
        comment: its comment.
        adopted: whether it carries the instance's mark, and is the one of its databases that was asked for.
        is_of_instance: whether it carries the instance's mark, be it the one that the registry knows or not.
        is_foreign: whether it is no instance's to get: it is another one's, of another role or product, or
            needed by the service itself.
        obstacle: why it cannot be handed over, and what to do about it; None if it can, or was.
        oid: its OID.
    """

    name: str
    owner: str
    size_bytes: int | None
    sessions: int
    comment: str | None
    adopted: bool
    is_of_instance: bool
    is_foreign: bool
    obstacle: str | None
    oid: str


async def inspect(
    session: asyncpg.Connection, owner: Owner, database: str, needed: Collection[str]
) -> Candidate | None:
    """The database of that name as `owner`'s instance would get it; None if there is none.

    Args:
        session: a session on the maintenance database.
        owner: the instance.
        database: the database's name.
        needed: databases that no instance may get, such as templates.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = await fetch_row(session, _INSPECT, database, INVALID_CONNECTION_LIMIT)
    if found is None:
        return None
    known = Owner.read(found["comment"])
    # Whichever of its databases: a registry that was restored may know another one.
    is_of_instance = known is not None and owner.shares_instance(known)
    obstacle = _obstacle(found, database, needed, adopted=is_of_instance)
    is_foreign = obstacle is not None and not is_of_instance
    if known is None:
        obstacle = obstacle or await _own_obstacle(session, owner, database)
    return Candidate(
        name=database,
        owner=found["owner"],
        size_bytes=found["size_bytes"],
        sessions=found["sessions"],
        comment=found["comment"],
        adopted=owner.owns(found["comment"]),
        is_of_instance=is_of_instance,
        is_foreign=is_foreign,
        obstacle=obstacle or await _left_obstacle(session, owner, database),
        oid=found["oid"],
    )


async def _own_obstacle(session: asyncpg.Connection, owner: Owner, database: str) -> str | None:
    """Why the instance gets no unmarked database while one that is not in the trash carries its mark.

    That may be the only one with its data, and would pass for a copy of the other afterwards.
    """
    for name, row in (await find(session, owner)).items():
        if name == database or is_trash_name(name) or is_reset_name(name) or is_invalid(row):
            continue
        if shares_instance(row, owner):
            return (
                f"The database '{name}' carries the mark of the instance, and may have its data."
                f" {handing_back(owner, name)} If it is a copy, or the instance shall have '{database}'"
                " instead, remove its comment (COMMENT ON DATABASE … IS NULL), then adopt the database."
            )
    return None


async def _left_obstacle(session: asyncpg.Connection, owner: Owner, database: str) -> str | None:
    try:
        await require_not_left(session, owner, database)
    except NameLeftError as refusal:
        return refusal.reason
    return None


async def adopt(
    session: asyncpg.Connection, owner: Owner, database: str, needed: Collection[str]
) -> Candidate | None:
    """Write the instance's mark on the database, unless there is an obstacle; returns it as `inspect` does.

    A mark that is there is written anew: it may name a publication that the registry does not know of.

    Safe to repeat.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    with translate_postgres_errors({}):
        async with session.transaction():
            await fetch_value(session, _LOCK_ADOPTION, database)
            candidate = await inspect(session, owner, database, needed)
            if candidate is None or candidate.obstacle:
                return candidate
            marked = await _to_mark(session, owner, candidate)
            await _mark(session, candidate, marked)
        return await inspect(session, marked, database, needed)


async def _mark(session: asyncpg.Connection, candidate: Candidate, marked: Owner) -> None:
    """Write the mark, unless another database has got the name: it may be that of another instance.

    Raises:
        DatabaseFaultError: one has, the server is away, …
    """
    statements = f"COMMENT ON DATABASE %1$I IS %2$L; {still_the_same('%1$L', '%3$L')}"
    try:
        comment = marked.comment_at(await server_clock(session))
        await execute(session, statements, candidate.name, comment, candidate.oid)
    except DatabaseFaultError as fault:
        if fault.sqlstate != DIVISION_BY_ZERO:
            raise
        raise changed_meanwhile(candidate.name) from None


async def _to_mark(session: asyncpg.Connection, owner: Owner, candidate: Candidate) -> Owner:
    """The owner that an adopted database is marked with.

    It keeps its own mark, and the row follows, unless one in the trash has the same: then a worker of a
    release without such marks has written the comment, and the row still knows the right one.
    """
    known = Owner.read(candidate.comment)
    if known is None:
        return owner
    marked = replace(
        owner,
        template_generation=known.template_generation,
        database_mark=known.database_mark,
        left=(*known.left, *owner.left),
    )
    for name, row in (await find(session, owner)).items():
        if name != candidate.name and is_trash_name(name) and marked.owns(row["comment"]):
            return replace(marked, database_mark=owner.database_mark)
    return marked


@dataclass(frozen=True)
class InTrash:
    """A database in the trash, as its comment describes it.

    Attributes:
        name: its name.
        owner: the instance, and the attempt at a job that has put it there.
        since: when that was; None if the comment does not say.
    """

    name: str
    owner: Owner
    since: datetime | None


async def replaced_databases(session: asyncpg.Connection, owner: Owner, database: str) -> list[InTrash]:
    """What resets of the instance have put into the trash, the earliest first, as the comments say.

    Those that were opened, or that a DROP has begun to remove, are left out.

    Args:
        session: a session on the maintenance database.
        owner: the instance, with the mark of the database that it has.
        database: the name of that.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    replaced = []
    for name, row in (await find(session, owner)).items():
        marked = Owner.read(row["comment"])
        closed = not row["datallowconn"] and not is_invalid(row)
        if name == database or not is_trash_name(name) or not closed or marked is None:
            continue
        is_other = owner.shares_instance(marked) and marked.database_mark != owner.database_mark
        if is_other and marked.trashed_name is not None:
            replaced.append(InTrash(name, marked, trashed_at(row["comment"])))
    return sorted(replaced, key=lambda one: one.owner.publication)


async def owner_of(session: asyncpg.Connection, database: str) -> Owner | None:
    """The owner that the comment of that database names; None if there is no such database or comment.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    found = await fetch_row(session, _INSPECT, database, INVALID_CONNECTION_LIMIT)
    return Owner.read(found["comment"]) if found else None


def _obstacle(found: asyncpg.Record, database: str, needed: Collection[str], *, adopted: bool) -> str | None:
    other = None if adopted else Owner.read(found["comment"])
    if found["needed"] or database in needed or SnapshotMark.read(found["comment"]):
        return f"'{database}' is a template, a snapshot, or a database that this service itself needs."
    if other is not None:
        return (
            f"The database '{database}' belongs to the instance with the OdsInstanceId"
            f" {other.ods_instance_id} of the tenant {other.tenant}."
        )
    if found["comment"] is not None and not adopted:
        return (
            f"The database '{database}' has a comment, which may mean something to somebody, and which the"
            " mark would replace. Remove it (COMMENT ON DATABASE … IS NULL), then adopt the database."
        )
    if found["invalid"]:
        return f"A DROP of the database '{database}' was interrupted. Drop it again, by hand."
    if not found["manageable"]:
        return (
            f"The role of ODS_MASTER_DSN does not own the database '{database}', {found['owner']} does."
            " Change that (ALTER DATABASE … OWNER TO …), then adopt the database."
        )
    return None
