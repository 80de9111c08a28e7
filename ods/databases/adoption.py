"""Adopting a database, and releasing one: the instance's mark is written, or removed."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import asyncpg

from ods.databases.changing import MARK, OPEN, change, change_name
from ods.databases.constants import INVALID_CONNECTION_LIMIT
from ods.databases.droppable import deletable
from ods.databases.dropping import drop_found_staging, drop_obstacle
from ods.databases.errors import (
    HOW_TO_RECOVER,
    DisagreementError,
    NameLeftError,
    NotOursError,
    translate_postgres_errors,
)
from ods.databases.left_names import require_not_left
from ods.databases.lookup import (
    DatabaseRows,
    find,
    require_no_staging,
    require_no_version,
    require_one_carrier,
    what_is_left,
)
from ods.databases.ownership import KnownOwner, Owner, trashed_at
from ods.databases.server import Server
from ods.databases.snapshots import SnapshotMark
from ods.databases.statements import fetch_row, fetch_value, server_clock
from ods.registry.backups.rows import without_zone
from ods.registry.instances.naming import is_reset_name, is_trash_name
from ods.registry.instances.versions import ReplacedDatabase

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
# If two registries name one database, the second to hold this lock finds the mark of the first.
_LOCK_ADOPTION = "SELECT pg_advisory_xact_lock(hashtextextended('ods adopt ' || $1, 0))"


@dataclass(frozen=True)
class Candidate:
    """A database that an instance shall get.

    Attributes:
        size_bytes: None if our role may not see it.
        adopted: whether it carries the mark of the very database of the instance that was asked for.
        is_of_instance: whether it carries the mark of any database of the instance.
        is_foreign: whether no instance may get it: it belongs to another instance, role or product, or the
            service itself needs it.
        obstacle: why it cannot be handed over, and what to do about it; None if it can, or was.
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

    No instance may get those that are `needed`, such as templates.
    """
    found = await fetch_row(session, _INSPECT, database, INVALID_CONNECTION_LIMIT)
    if found is None:
        return None
    known = Owner.read(found["comment"])
    # Any of its databases: a restored registry may know another one.
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

    The marked one may be the only one with its data, and would seem to be a copy afterwards.
    """
    for name, row in (await find(session, owner)).items():
        if name == database or is_trash_name(name) or is_reset_name(name) or row.is_invalid:
            continue
        if row.is_of(owner):
            return (
                f"The database '{name}' carries the mark of the instance, and may have its data."
                f" {HOW_TO_RECOVER} If it is a copy, or the instance shall have '{database}'"
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

    A mark that is there is written anew: it may name a revision that the registry does not know.
    """
    with translate_postgres_errors({}):
        async with session.transaction():
            await fetch_value(session, _LOCK_ADOPTION, database)
            candidate = await inspect(session, owner, database, needed)
            if candidate is None or candidate.obstacle:
                return candidate
            marked = await _to_mark(session, owner, candidate)
            comment = marked.comment_at(await server_clock(session))
            await change(session, candidate.name, candidate.oid, MARK, comment=comment)
        return await inspect(session, marked, database, needed)


async def _to_mark(session: asyncpg.Connection, owner: Owner, candidate: Candidate) -> Owner:
    """The owner that an adopted database is marked with.

    It keeps its own database id, and the row follows, unless one in the trash has the same id: then the
    comment was copied, and the id stays with that one.
    """
    known = Owner.read(candidate.comment)
    if known is None:
        return owner
    marked = replace(
        owner,
        template=known.template or owner.template,
        template_generation=known.template_generation,
        database_id=known.database_id,
        left=(*known.left, *owner.left),
    )
    for name, row in (await find(session, owner)).items():
        if name != candidate.name and is_trash_name(name) and marked.owns(row.comment):
            return replace(marked, database_id=owner.database_id)
    return marked


async def replaced_databases(
    session: asyncpg.Connection, owner: Owner, database: str
) -> list[ReplacedDatabase]:
    """By the comments, what resets of the instance have put into the trash, the earliest first.

    Open and half-dropped ones are left out, and so is the owner's own `database`.
    """
    replaced = []
    for name, row in (await find(session, owner)).items():
        marked, since = row.marked, trashed_at(row.comment)
        closed = is_trash_name(name) and not row.is_open and not row.is_invalid
        if name == database or not closed or marked is None or since is None:
            continue
        if owner.shares_instance(marked) and marked.database_id != owner.database_id:
            about = (marked.number, str(marked.revision), marked.database_id)
            made_of = (marked.template, marked.template_generation)
            replaced.append(ReplacedDatabase(*about, *made_of, without_zone(since)))
    return sorted(replaced, key=lambda one: (one.replaced_at, one.number))


async def owner_of(session: asyncpg.Connection, database: str) -> Owner | None:
    """The owner that the comment of that database names; None if there is no such database or comment."""
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


async def let_go(
    server: Server, session: asyncpg.Connection, owner: KnownOwner, names: list[str], *, published: bool
) -> None:
    """Remove the mark of the instance's database, which stays, open, under the first of `names`.

    Refuses if the database is lost while there is one from before a reset, or one that was never published.
    """
    found = await find(session, owner, *names, owner.staging_name)
    if _is_let_go(found, owner, names[0]):
        return  # by an earlier try
    database = deletable(found, owner, names, published=published)
    if database is None:
        require_no_version(found, owner)
        if published:
            require_no_staging(found, owner)
    else:
        require_one_carrier(found, owner, database)
    await drop_found_staging(session, owner, found)
    if database is None:
        return
    if found[database].is_invalid:
        raise DisagreementError(
            database,
            f"A DROP of the database '{database}' was interrupted:"
            f" {what_is_left(found, owner) or 'delete the instance with it.'}",
        )
    if database != names[0] and names[0] in found:
        raise NotOursError(names[0])
    await change_name(server, session, found[database], names[0], OPEN, "COMMENT ON DATABASE %2$I IS NULL")


async def let_go_obstacle(session: asyncpg.Connection, owner: KnownOwner, names: list[str]) -> str | None:
    """Why `let_go` would refuse the published database of these names; None if it would not."""
    if _is_let_go(await find(session, owner, *names), owner, names[0]):
        return None
    return await drop_obstacle(session, owner, names)


def _is_let_go(found: DatabaseRows, owner: Owner, database: str) -> bool:
    """Whether an earlier try has removed the mark."""
    is_marked = any(owner.owns(row.comment) for row in found.values())
    return not is_marked and database in found and found[database].comment is None
