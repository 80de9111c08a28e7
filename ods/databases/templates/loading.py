"""Loading a template: a private database, and publishing it in place of the one that has the template's name.

One session holds two advisory locks for the whole load: that of the template, so that no other load of it
runs, and that of the private name, so that no pass takes the database for a leftover. The same session
publishes: a load that has lost its session has lost its locks, and publishes nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import asyncpg

from ods.databases.changing import count_sessions
from ods.databases.constants import (
    DIVISION_BY_ZERO,
    INTERNAL_ERROR,
    INVALID_CONNECTION_LIMIT,
    LOCK_NOT_AVAILABLE,
    NAME_IN_USE,
    OBJECT_IN_USE,
    QUERY_CANCELED,
    UNDEFINED_DATABASE,
)
from ods.databases.dropping import drop_database
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.ownership import Owner
from ods.databases.provisioning import size_of
from ods.databases.publishing import access_statements, settings_left_out
from ods.databases.server import Server
from ods.databases.statements import execute, fetch_row, fetch_rows, fetch_value
from ods.databases.templates import spares
from ods.databases.templates.marks import (
    EXPECTED_TABLES,
    Contents,
    TemplateMark,
    TemplateState,
    missing_tables,
    new_private_name,
    read_contents,
)
from ods.databases.templates.reports import remove_leftovers
from ods.databases.templates.spares import SpareMark
from ods.registry.storage.connecting import ends_sessions

_FIRST_OWN_OID = 16384
"""Databases with lower ones were made by initdb (PostgreSQL's FirstNormalObjectId)."""

_ROW = """
SELECT oid::int8, oid || ' ' || db.xmin AS state, datallowconn, datistemplate, datconnlimit = $2 AS invalid,
       pg_has_role(datdba, 'USAGE') AS is_ours, shobj_description(db.oid, 'pg_database') AS comment,
       datname = current_database() AS is_maintenance,
       (SELECT count(*) FROM pg_stat_activity AS activity
        WHERE activity.datid = db.oid AND usesysid IS NOT NULL) AS sessions
FROM pg_database AS db WHERE datname = $1
"""
_UNAVAILABLE = """
SELECT name, EXISTS (SELECT FROM pg_available_extensions AS found WHERE found.name = wanted.name) AS is_there
FROM unnest($1::text[]) AS wanted (name)
WHERE NOT EXISTS (
    SELECT FROM pg_available_extension_versions AS version
    WHERE version.name = wanted.name
      AND (NOT superuser OR trusted OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
)
ORDER BY name
"""
_LOCK_TIMEOUT = "20ms"
_STATEMENT_TIMEOUT = "40ms"
"""While the exchange of names waits for a lock, so do creates that begin meanwhile."""
_PAUSE_SECONDS = 0.25
_EXCHANGE_SECONDS = 300
"""How long the exchange of names is tried while creates copy the old template."""
_CLOSING_SECONDS = 10
_CHANGED = {*NAME_IN_USE, UNDEFINED_DATABASE, DIVISION_BY_ZERO}
"""SQLSTATEs of an exchange of names when the databases are not those that were examined."""
_BUSY = {LOCK_NOT_AVAILABLE, OBJECT_IN_USE, INTERNAL_ERROR, QUERY_CANCELED}
"""SQLSTATEs of an exchange of names that may succeed later: it took too long, among others."""

_BRIEFLY = (
    f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'",
    f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'",
)
# %1: the template's database, %2: the loaded one, %3: the name of the replaced one, %4 and %5: the comments,
# %7 and %8: state and comment of the database that is replaced, %9: the grants and settings that it has. If
# it was changed since, a division by zero undoes everything. As in `ods.databases.replacing`, the state is
# compared before the rename, and the comment afterwards.
_SET_ASIDE = (
    "%9$s",
    "SELECT 1 / count(*) FROM pg_database WHERE datname = %1$L AND oid || ' ' || xmin = %7$L",
    "ALTER DATABASE %1$I RENAME TO %3$I",
    (
        "SELECT 1 / count(*) FROM pg_database"
        " WHERE datname = %3$L AND coalesce(shobj_description(oid, 'pg_database'), '') = %8$L"
    ),
    "COMMENT ON DATABASE %3$I IS %5$L",
    "ALTER DATABASE %3$I ALLOW_CONNECTIONS false",
)
_PUBLISH = (
    "ALTER DATABASE %2$I RENAME TO %1$I",
    "COMMENT ON DATABASE %1$I IS %4$L",
    "ALTER DATABASE %1$I IS_TEMPLATE true",
)
# The names and oids in %6 are now those of databases.
_CHECK = """
SELECT 1 / min((db.oid IS NOT DISTINCT FROM value::oid)::int)
FROM json_each_text(%6$L) LEFT JOIN pg_database AS db ON datname = key
"""
# One statement for each of $1 sessions; the largest tables are shared out first, partitions with their table.
_ANALYSES = """
SELECT 'ANALYZE ' || string_agg(format('%I.%I', nspname, relname), ', ' ORDER BY place) AS statement
FROM (
    SELECT relnamespace, relname, row_number() OVER (ORDER BY pg_relation_size(oid) DESC, oid) AS place
    FROM pg_class
    WHERE relkind IN ('r', 'm', 'p') AND NOT relispartition AND NOT relisshared AND relpersistence <> 't'
) AS relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
GROUP BY place % $1::int
"""
_INVALID_INDEXES = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


@dataclass(frozen=True)
class LoadTarget:
    """What shall be loaded."""

    installation: str
    template: str
    database: str
    needed: frozenset[str]
    """Names of databases that no load touches, such as the registry and other templates."""


@dataclass(frozen=True)
class Replaced:
    """The database that a load replaces.

    Attributes:
        state: another one if the row of `pg_database` was changed, as by opening and closing the database.
        generation: that of the template in it; 0 if no load of ours has published it.
    """

    oid: int
    state: str
    comment: str | None
    generation: int


async def require_loadable(
    session: asyncpg.Connection, target: LoadTarget, extensions: Collection[str]
) -> None:
    """Refuse a load that cannot succeed, before anything is done."""
    await replaceable(session, target)
    missing = await fetch_rows(session, _UNAVAILABLE, list(extensions))
    if absent := [row["name"] for row in missing if not row["is_there"]]:
        raise DatabaseFaultError(
            f"The file needs extensions that the server does not have: {', '.join(absent)}. Install them on"
            " it (PostgreSQL's own are in the package postgresql-contrib), then load the file again."
        )
    if refused := [row["name"] for row in missing]:
        raise DatabaseFaultError(
            f"The file needs extensions that only a superuser may create: {', '.join(refused)}. Load it with"
            " the login of a superuser in ODS_MASTER_DSN, or make a file without them."
        )


async def replaceable(session: asyncpg.Connection, target: LoadTarget) -> Replaced | None:
    """The database that the load replaces; None if there is none."""
    row = await fetch_row(session, _ROW, target.database, INVALID_CONNECTION_LIMIT)
    if target.database in target.needed:
        raise DatabaseFaultError(f"The database '{target.database}' is needed for something else.")
    if row is None:
        return None
    if (reason := next(_obstacles(row, target.installation), None)) is not None:
        raise DatabaseFaultError(f"The database '{target.database}' {reason} Nothing was done.")
    mark = TemplateMark.read(row["comment"])
    return Replaced(row["oid"], row["state"], row["comment"], mark.generation if mark else 0)


def _obstacles(row: asyncpg.Record, installation: str) -> Iterator[str]:
    """Why a database may not be replaced by a load, each as the end of a sentence."""
    mark = TemplateMark.read(row["comment"])
    if row["is_maintenance"] or row["oid"] < _FIRST_OWN_OID:
        yield "is one that PostgreSQL or this service needs itself."
    if Owner.read(row["comment"]) or SpareMark.read(row["comment"]):
        yield "belongs to an instance, or is a spare: its comment says so."
    if mark is not None and mark.installation != installation:
        yield (
            f"was loaded by the installation {mark.installation}. If it is not in use there, remove its"
            " comment (COMMENT ON DATABASE … IS NULL)."
        )
    if row["invalid"]:
        yield "is left of an interrupted DROP. Drop it, then load the template again."
    if row["datallowconn"] and not row["datistemplate"]:
        yield (
            "is open, and not marked as a template. If it is one: ALTER DATABASE … IS_TEMPLATE true"
            " ALLOW_CONNECTIONS false."
        )
    if not row["is_ours"]:
        yield "belongs to another role than that of ODS_MASTER_DSN. Make that role its owner."
    if row["sessions"]:
        yield "has sessions on it. Close them."


class TemplateLoad:
    """One load: fill the private `database`, then call `check` and `publish`.

    Attributes:
        settings_left_out: settings of the replaced database that the published one could not be given.
        kept: the private name of the replaced database, if no load had made it: nothing removes it.
    """

    def __init__(
        self, server: Server, session: asyncpg.Connection, target: LoadTarget, old: Replaced | None
    ) -> None:
        self.database = new_private_name(target.installation)
        self.is_published = False
        self.settings_left_out: Sequence[str] = ()
        self.kept: str | None = None
        self._server = server
        self._session = session
        self._target = target
        self._old = old
        self._contents: Contents | None = None

    async def size_bytes(self) -> int:
        """The size of the private database."""
        return await size_of(self._session, self.database) or 0

    async def create(self) -> None:
        """Make the private database: closed, until its comment says what it is."""
        session, database = self._session, self.database
        mark = TemplateMark(self._target.installation, self._target.template, TemplateState.LOADING)
        await execute(session, "CREATE DATABASE %I TEMPLATE template0 ALLOW_CONNECTIONS false", database)
        marking = "COMMENT ON DATABASE %1$I IS %2$L; ALTER DATABASE %1$I ALLOW_CONNECTIONS true"
        await execute(session, marking, database, mark.comment)

    async def check(self) -> Contents:
        """Require that the filled database opens and is one that the ODS/API can use."""
        async with self._server.connected(self.database) as inside:
            if missing := await missing_tables(inside):
                raise DatabaseFaultError(
                    f"The file is not that of an ODS: it has no {', '.join(missing)}. The ODS/API expects"
                    f" {', '.join(EXPECTED_TABLES)}."
                )
            if await fetch_value(inside, _INVALID_INDEXES):
                raise DatabaseFaultError("The database has indexes that are not valid. Load it again.")
            self._contents = await read_contents(inside)
        return self._contents

    async def analyse(self, jobs: int) -> None:
        """Collect the statistics of all tables, which copies of the template get."""
        async with self._server.connected(self.database) as inside:
            shares = await fetch_rows(inside, _ANALYSES, jobs)
        await asyncio.gather(*(self._analyse(share["statement"]) for share in shares))

    async def _analyse(self, statement: str) -> None:
        async with self._server.connected(self.database) as inside:
            await execute(inside, "%s", statement)

    async def publish(self) -> TemplateMark:
        """Close the database; give it the name, the grants and the settings of the one that it replaces."""
        await self._close()
        if self._old is not None:
            with translate_postgres_errors({}):
                self.settings_left_out = await settings_left_out(self._session, self._target.database)
        generation = (self._old.generation if self._old else 0) + 1
        mark = TemplateMark(
            self._target.installation,
            self._target.template,
            TemplateState.PUBLISHED,
            generation=generation,
            loaded_at=datetime.now(UTC).replace(microsecond=0),
            contents=self._contents,
        )
        loaded = await fetch_value(
            self._session, "SELECT oid::int8 FROM pg_database WHERE datname = $1", self.database
        )
        deadline = monotonic() + _EXCHANGE_SECONDS
        while True:
            try:
                await self._exchange(mark, loaded)
            except DatabaseFaultError as fault:
                if ends_sessions(fault.sqlstate):
                    raise DatabaseFaultError(
                        f"{fault.reason} It may have published the template before: `ods template list` shows"
                        " when the one in place was loaded.",
                        sqlstate=fault.sqlstate,
                    ) from None
                if fault.sqlstate not in _BUSY or monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self.is_published = True
                return mark

    async def _exchange(self, mark: TemplateMark, loaded: int) -> None:
        """Exchange the names in one transaction, which holds its locks for a moment only."""
        target, old, replaced = self._target, self._old, new_private_name(self._target.installation)
        of_old: tuple[str, ...] = ()
        if old is not None:
            access = await access_statements(self._session, target.database, self.database)
            of_old = old.state, old.comment or "", access
        left = TemplateMark(
            mark.installation, mark.template, TemplateState.REPLACED, generation=old.generation if old else 0
        )
        expected = {target.database: loaded} | ({replaced: old.oid} if old else {})
        changed = "Another session has changed the template meanwhile. Nothing was replaced; load it again."
        busy = (
            f"Sessions use the database '{target.database}' all the time. Nothing was replaced. Close them,"
            " or load the template when fewer instances are created."
        )
        await execute(
            self._session,
            "; ".join([*_BRIEFLY, *(_SET_ASIDE if old else ()), *_PUBLISH, _CHECK]),
            target.database,
            self.database,
            replaced,
            mark.comment,
            left.comment,
            json.dumps(expected),
            *of_old,
            reasons=dict.fromkeys(_CHANGED, changed) | dict.fromkeys(_BUSY, busy),
        )
        self.kept = replaced if old and not old.generation else None

    async def _close(self) -> None:
        await execute(self._session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", self.database)
        deadline = monotonic() + _CLOSING_SECONDS
        while await count_sessions(self._session, self.database):
            if monotonic() > deadline:
                raise DatabaseFaultError("Sessions stay on the new template. Nothing was replaced.")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def loading(server: Server, target: LoadTarget) -> AsyncIterator[TemplateLoad]:
    """A load of the template. What it has made is removed after the body, unless it was published.

    The reconcile pass or the next load removes the replaced database: a DROP waits for a checkpoint, which
    writes all that was loaded.
    """
    async with server.session() as session, spares.locked(session, f"template {target.database}") as acquired:
        if not acquired:
            raise DatabaseFaultError(f"Another session loads the template {target.template} already.")
        await remove_leftovers(session, target.installation, {*target.needed, target.database})
        load = TemplateLoad(server, session, target, await replaceable(session, target))
        async with spares.locked(session, load.database):
            try:
                await load.create()
                yield load
            finally:
                if not load.is_published:
                    with suppress(DatabaseFaultError):  # the reconcile pass or the next load removes it
                        await drop_database(session, load.database, invalid=False)
