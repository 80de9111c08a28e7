"""Sessions that see a database as it was at one moment, and let pg_dump see the same."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncpg

from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.lookup import changed_meanwhile
from ods.databases.server import Server
from ods.databases.statements import fetch_rows, fetch_value

_LOCK_TIMEOUT = "2min"
"""How long a session that changes a table may keep a dump waiting. A try at the job that takes no longer than
`workflows.options.LONGEST_OUTAGE_TRY` counts as one that waits, so that the job gives up some day."""

_LONGEST_SILENCE = "60s"
"""How long PostgreSQL keeps a session of which it hears nothing: while the transaction is open, VACUUM does
not remove what was deleted since. A worker that was suspended does not hold it up for longer."""
_PING_SECONDS = 10
_OID = "SELECT oid::text FROM pg_database WHERE datname = current_database()"
_SETTINGS_OF_DATABASE = """
SELECT EXISTS (
    SELECT FROM pg_settings
    WHERE name = 'default_transaction_read_only' AND setting = 'on' AND source = 'database'
) AS read_only, getdatabaseencoding() AS encoding
"""
# Where a role or database has limits: a transaction is open, and idle, for as long as a dump takes.
_LIMITS = """
SELECT name, CASE name WHEN 'idle_in_transaction_session_timeout' THEN $1 ELSE '0' END AS setting
FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
# Counts must be of all rows; as with pg_dump, a role that may not see all of them gets an error.
_SETTINGS = {"row_security": "off", "lock_timeout": _LOCK_TIMEOUT}
_OWN = """
FROM pg_class JOIN pg_namespace AS ns ON ns.oid = relnamespace
WHERE relpersistence <> 't' AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
"""
# What an extension makes is made by it in a copy as well: pg_dump leaves it out.
_OF_NO_EXTENSION = """
NOT EXISTS (
    SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
)
"""
# All that pg_dump locks: also the rows that users have added to an extension's tables of configuration, and
# partitioned tables. Waits for no lock, unlike the size of a table.
_NAMES = f"""
SELECT pg_class.oid, format('%I.%I', nspname, relname) AS quoted
{_OWN} AND relkind IN ('r', 'p')
   AND ({_OF_NO_EXTENSION} OR pg_class.oid IN (SELECT unnest(extconfig) FROM pg_extension))
ORDER BY nspname, relname
"""  # noqa: S608 - constants
_TABLES = f"""
SELECT nspname AS schema, relname AS relation, format('%I.%I', nspname, relname) AS quoted,
       pg_table_size(pg_class.oid) AS bytes, (
           SELECT attname FROM pg_attribute
           WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
           ORDER BY attlen < 0, attlen, attnum LIMIT 1
       ) AS narrowest, NOT ({_OF_NO_EXTENSION}) AS of_extension,
       pg_class.oid IN (SELECT unnest(extconfig) FROM pg_extension) AS kept_for_users
{_OWN} AND relkind = 'r'
ORDER BY nspname, relname
"""  # noqa: S608 - constants
_TRIES_TO_LOCK = 10
_HAS_GONE = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.WrongObjectTypeError)
"""A table was dropped or renamed, or is none any more."""


@dataclass(frozen=True)
class Database:
    """A database that is backed up, or restored into.

    `oid` is None if the name is a private one, which no other database gets.
    """

    server: Server
    name: str
    oid: str | None = None


@dataclass(frozen=True)
class Table:
    """A table with rows.

    Attributes:
        schema: the name of its schema.
        relation: its own name.
        quoted: both, as they stand in SQL.
        size_bytes: what it takes on the server.
        narrowest: the name of a stored column whose values are short; None if it has no such column.
        of_extension: whether an extension has made it, or was given it. In a dump are none of its rows then,
            or those that the extension keeps for users.
        kept_for_users: whether the extension has pg_dump take rows of it.
    """

    schema: str
    relation: str
    quoted: str
    size_bytes: int
    narrowest: str | None
    of_extension: bool
    kept_for_users: bool

    @property
    def name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.relation}"


@dataclass(frozen=True)
class Snapshot:
    """A database as it was at one moment.

    Attributes:
        connection: of the session that sees this moment only.
        tables: those that a dump has; no other session changes their form until the transaction ends.
        extension_tables: those of extensions.
        read_only: whether a setting of the database itself makes its sessions read-only.
        encoding: that of the database.
        lock: held by what uses the session.
    """

    connection: asyncpg.Connection
    tables: Sequence[Table]
    extension_tables: Sequence[Table]
    read_only: bool
    encoding: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """The session, in a transaction that sees this moment only; nothing else uses it meanwhile."""
        async with self.lock:
            yield self.connection

    async def require_open(self) -> None:
        """Check that the transaction is open: the server ends all sessions when it stops or crashes."""
        async with self.session() as session:
            await fetch_value(session, "SELECT 1")


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[Snapshot]:
    """Open a transaction that sees nothing of what other sessions commit from now on.

    It is kept open by queries of this process; PostgreSQL ends it soon after these stop.

    Raises:
        DatabaseFaultError: another database has got the name; the server is away, another session locks a
            table for long, …
    """
    async with database.server.connected(database.name) as session:
        if database.oid not in {None, await fetch_value(session, _OID)}:
            raise changed_meanwhile(database.name)
        reasons = {
            INSUFFICIENT_PRIVILEGE: f"A table of '{database.name}' belongs to another role than that of"
            " ODS_MASTER_DSN, which may not read it; PostgreSQL's log names it. Give it the table (ALTER"
            " TABLE … OWNER TO …), or grant it SELECT there and USAGE on the schema; then retry. In the trash"
            " the database is closed: undelete the instance first."
        }
        with translate_postgres_errors(reasons):
            await _begin(session, database.name)
        found = [Table(*row) for row in await fetch_rows(session, _TABLES)]
        tables = [table for table in found if not table.of_extension]
        of_extensions = [table for table in found if table.of_extension]
        (settings,) = await fetch_rows(session, _SETTINGS_OF_DATABASE)
        opened = Snapshot(session, tables, of_extensions, settings["read_only"], settings["encoding"])
        pinging = asyncio.create_task(_keep_alive(opened))
        try:
            yield opened
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)


async def _begin(session: asyncpg.Connection, database: str) -> None:
    """Begin the transaction that sees one moment, with all tables locked against changes of their form.

    They are locked before the first query, at which that moment is: TRUNCATE, and the forms of ALTER TABLE
    that write a table anew, are not MVCC-safe (PostgreSQL 13.6, "Caveats"). Who sees a moment before they
    were committed finds the table empty.

    Raises:
        DatabaseFaultError: other sessions make, drop or rename tables all the time.
    """
    limits = {row["name"]: row["setting"] for row in await session.fetch(_LIMITS, _LONGEST_SILENCE)}
    settings = "".join(f"SET LOCAL {name} = '{value}'; " for name, value in {**_SETTINGS, **limits}.items())
    for _ in range(_TRIES_TO_LOCK):
        tables = await session.fetch(_NAMES)
        transaction = session.transaction(isolation="repeatable_read", readonly=True)
        await transaction.start()
        await session.execute(settings)
        with suppress(*_HAS_GONE):
            if tables:
                names = ", ".join(row["quoted"] for row in tables)
                await session.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
            if await session.fetch(_NAMES) == tables:
                return
        await transaction.rollback()
    raise DatabaseFaultError(
        f"Other sessions make, drop or rename tables of '{database}' all the time. Retry when they are done.",
        retryable=True,
    )


async def _keep_alive(opened: Snapshot) -> None:
    """Let PostgreSQL hear of the session, until it has ended: what uses it next is told."""
    with suppress(DatabaseFaultError):
        while True:
            await asyncio.sleep(_PING_SECONDS)
            await opened.require_open()
