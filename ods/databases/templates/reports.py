"""Reports on the templates, without opening one that is closed; removing what loads of templates have left.

A leftover of a load that died, or a replaced template, is removed only if its name is a private one of the
installation, no load holds the lock of that name, and its comment names the installation, or it has none, is
closed and empty, as a load makes it. A template that a load has replaced, and that no load had made, stays:
who has made it by hand may still need it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT, SPARE_PREFIX, TEMPLATE_PREFIX, private_prefix
from ods.databases.dropping import drop_database
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.databases.statements import execute, fetch_rows
from ods.databases.templates import spares
from ods.databases.templates.marks import Contents, TemplateMark, TemplateState, is_private, read_contents
from ods.databases.templates.spares import SpareList, SpareMark

_READ_SECONDS = 2
"""How long an open template may take to say what it holds: a create waits for our session on it."""
_ALLOWANCE_BYTES = 1024 * 1024
"""By how much two empty databases may differ in size."""

# The size of a database that our role may not connect to would be refused. Autovacuum has no user.
_ROWS = """
SELECT datname, datallowconn, datconnlimit = $2 AS invalid,
       shobj_description(db.oid, 'pg_database') AS comment,
       CASE WHEN has_database_privilege(db.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(db.oid) END AS size_bytes,
       datistemplate OR pg_has_role(datdba, 'USAGE') AS may_copy,
       (SELECT count(*) FROM pg_stat_activity AS activity
        WHERE activity.datid = db.oid AND usesysid IS NOT NULL) AS sessions
FROM pg_database AS db
WHERE datname = ANY($1::name[])
"""
_PRIVATE = """
SELECT datname, oid::int8, datallowconn, datistemplate, datconnlimit = $2 AS invalid,
       pg_has_role(datdba, 'USAGE') AS is_ours, comment,
       CASE WHEN comment IS NULL AND pg_has_role(datdba, 'USAGE')
            THEN pg_database_size(oid) <= pg_database_size('template0') + $3 END AS is_empty
FROM pg_database, shobj_description(oid, 'pg_database') AS comment WHERE starts_with(datname, $1)
"""
_SPARES = (
    "SELECT shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE starts_with(datname, $1)"
)


@dataclass(frozen=True)
class TemplateReport:
    """A template, as the server shows it; what is not known is None.

    Attributes:
        open: whether the database accepts connections, which hold up creates.
        spares: how many spares are copies of it as it is now.
        generation: counts the databases that were loaded as this template.
        loaded_at: when it was loaded, by its comment.
        obstacle: why no instance can be made of it now, and what to do about it; None if one can.
    """

    name: str
    database: str
    size_bytes: int | None = None
    open: bool | None = None
    sessions: int | None = None
    spares: int = 0
    generation: int | None = None
    loaded_at: datetime | None = None
    contents: Contents | None = None
    obstacle: str | None = None

    @property
    def ready(self) -> bool:
        """Whether an instance can be made of it now."""
        return self.obstacle is None


@dataclass(frozen=True)
class TemplateLeftover:
    """A database that a load of a template has left; without a readable comment, the other fields are None.

    Attributes:
        state: `loading` (a load runs, or has died) or `replaced` (by a newer one).
        generation: counts what was published under the template's name.
    """

    database: str
    template: str | None = None
    state: TemplateState | None = None
    generation: int | None = None


class TemplateInspector:
    """Reports on a tenant's templates, of which `databases` has the names of the databases."""

    def __init__(
        self, server: Server, installation: Callable[[], Awaitable[str]], databases: Mapping[str, str]
    ) -> None:
        self._server = server
        self._installation = installation
        self._databases = databases

    async def report(self) -> Sequence[TemplateReport]:
        """All templates, in the order of the settings."""
        names = list(self._databases.values())
        async with self._server.session() as session:
            listed = await spares.list_spares(session, await self._installation(), names)
            found = await fetch_rows(session, _ROWS, names, INVALID_CONNECTION_LIMIT)
        rows = {row["datname"]: row for row in found}
        return [
            await self._report(template, database, rows.get(database), listed)
            for template, database in self._databases.items()
        ]

    async def leftovers(self) -> Sequence[TemplateLeftover]:
        """See `list_leftovers`."""
        async with self._server.session() as session:
            return await list_leftovers(session, await self._installation(), set(self._databases.values()))

    async def _report(
        self, template: str, database: str, row: asyncpg.Record | None, listed: SpareList
    ) -> TemplateReport:
        if row is None:
            words = f"The database does not exist. Load it: `ods template load {template} FILE`."
            return TemplateReport(template, database, obstacle=words)
        contents = await self._contents(database) if row["datallowconn"] else None
        mark = TemplateMark.of_template(row["comment"])
        return TemplateReport(
            template,
            database,
            size_bytes=row["size_bytes"],
            open=row["datallowconn"],
            sessions=row["sessions"],
            spares=len(listed.ready(database)),
            generation=mark.generation if mark else None,
            loaded_at=mark.loaded_at if mark else None,
            contents=contents or (mark.contents if mark else None),
            obstacle=_obstacle(row),
        )

    async def _contents(self, database: str) -> Contents | None:
        """What an open template holds; None if it does not answer, or refuses us."""
        try:
            async with asyncio.timeout(_READ_SECONDS), self._server.connected(database) as session:
                return await read_contents(session)
        except (DatabaseFaultError, TimeoutError):
            return None


def _obstacle(row: asyncpg.Record) -> str | None:
    if row["invalid"]:
        return "A DROP of the database was interrupted. Drop it, then create it again."
    if not row["may_copy"]:
        return (
            "The role of ODS_MASTER_DSN may not copy the database. Mark it as a template (ALTER DATABASE …"
            " IS_TEMPLATE true), or make the role its owner."
        )
    if row["size_bytes"] is None:
        return "The role of ODS_MASTER_DSN may not read the database's size. Grant it CONNECT on it."
    if row["sessions"]:
        return (
            "Sessions on the database hold up every create. End them, and close it (ALTER DATABASE …"
            " ALLOW_CONNECTIONS false)."
        )
    return None


async def list_leftovers(
    session: asyncpg.Connection, installation: str, needed: Collection[str]
) -> list[TemplateLeftover]:
    """What loads of this installation have left, or work on now; by name, without those that are `needed`."""
    rows = await _private_databases(session, installation, needed)
    marks = {row["datname"]: TemplateMark.read(row["comment"]) for row in rows}
    return [
        TemplateLeftover(name, mark.template, mark.state, mark.generation) if mark else TemplateLeftover(name)
        for name, mark in sorted(marks.items())
    ]


async def remove_leftovers(
    session: asyncpg.Connection, installation: str, needed: Collection[str]
) -> list[str]:
    """Remove what loads of this installation have left, as far as possible now; returns the removed ones.

    Those that are `needed`, such as the templates, are never removed.
    """
    rows = await _private_databases(session, installation, needed)
    return [row["datname"] for row in rows if await _removed(session, installation, row)]


async def _private_databases(
    session: asyncpg.Connection, installation: str, needed: Collection[str] = ()
) -> list[asyncpg.Record]:
    prefix = private_prefix(TEMPLATE_PREFIX, installation)
    rows = await fetch_rows(session, _PRIVATE, prefix, INVALID_CONNECTION_LIMIT, _ALLOWANCE_BYTES)
    return [row for row in rows if is_private(row["datname"]) and row["datname"] not in needed]


async def _removed(session: asyncpg.Connection, installation: str, row: asyncpg.Record) -> bool:
    database = row["datname"]
    async with spares.locked(session, database) as acquired:
        # Before the lock was acquired, another session may have published or removed it.
        is_as_found = acquired and row in await _private_databases(session, installation)
        if not (is_as_found and await _may_go(session, installation, row)):
            return False
        try:
            if row["datistemplate"]:
                await execute(session, "ALTER DATABASE %I IS_TEMPLATE false", database)
            await drop_database(session, database, invalid=row["invalid"])
        except DatabaseFaultError:
            return False  # a create may still copy it: that is not waited for
        return True


async def _may_go(session: asyncpg.Connection, installation: str, row: asyncpg.Record) -> bool:
    if not row["is_ours"]:
        return False
    if row["comment"] is None:
        return bool(row["is_empty"]) and not row["datallowconn"]
    mark = TemplateMark.read(row["comment"])
    if mark is None or mark.installation != installation:
        return False
    match mark.state:
        case TemplateState.LOADING:
            return True
        case TemplateState.REPLACED:
            return mark.generation > 0 and row["oid"] not in await _copied(session)
        case TemplateState.PUBLISHED:  # another session has given it this name
            return False
        case _:
            assert_never(mark.state)


async def _copied(session: asyncpg.Connection) -> set[int]:
    """The oids of the databases that spares, of any installation, are copies of."""
    marks = [SpareMark.read(row["comment"]) for row in await fetch_rows(session, _SPARES, SPARE_PREFIX)]
    return {mark.fingerprint.oid for mark in marks if mark}
