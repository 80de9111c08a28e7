"""What a superuser sees of databases, without connecting to them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from tests.servers import session

FENCE_AWAITED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
FENCES_HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
_OURS = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1, 2, 3, 4"
CATALOGS = {
    "schemas": "SELECT nspname FROM pg_namespace ORDER BY 1",
    "columns": f"SELECT * FROM information_schema.columns WHERE table_schema {_OURS}",  # noqa: S608 - a constant
    "indexes": f"SELECT * FROM pg_indexes WHERE schemaname {_OURS}",  # noqa: S608 - a constant
    "sequences": f"SELECT * FROM pg_sequences WHERE schemaname {_OURS}",  # noqa: S608 - a constant
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
    " FROM pg_constraint WHERE oid >= 16384 ORDER BY 1, 2",
}


async def row_of(admin: asyncpg.Connection, database: str) -> asyncpg.Record | None:
    """All that the server knows about a database."""
    return await admin.fetchrow(
        "SELECT *, shobj_description(oid, 'pg_database') AS comment, datdba::regrole::text AS owner"
        " FROM pg_database WHERE datname = $1",
        database,
    )


UNREADABLE = {
    "another version": {"version": 2},
    "no version": {"version": None},
    "no installation": {"installation": None},
    "no number": {"number": None},
    "no attempt": {"attempt": None},
    "no request": {"request": None},
    "no time": {"publishedAt": None},
}
"""What makes a comment of ours one that this release cannot read: a member that is changed, or removed."""


def unreadable(comment: str, change: str) -> str:
    """The comment of a database of ours, changed so: it still contains the mark."""
    members = json.loads(comment) | UNREADABLE[change]
    return json.dumps({name: value for name, value in members.items() if value is not None})


async def comment_on(admin: asyncpg.Connection, database: str, comment: str | None) -> None:
    """Write the comment of a database, or remove it."""
    statement = "SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)"
    await admin.execute(await admin.fetchval(statement, database, comment))


async def exists(admin: asyncpg.Connection, database: str) -> bool:
    return await row_of(admin, database) is not None


async def databases_of(admin: asyncpg.Connection, mark: str) -> set[str]:
    """Every database of the instance with this mark, published or not."""
    rows = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%' || $1 || '%'"
        r" OR datname LIKE 'ods\_staging\_%' || replace($1, '-', '')",
        mark,
    )
    return {row["datname"] for row in rows}


async def fingerprint(admin: asyncpg.Connection, database: str) -> tuple[asyncpg.Record, str]:
    """What the server knows about a database, and a checksum of every byte in its files."""
    row = await row_of(admin, database)
    assert row is not None
    await admin.execute("CHECKPOINT")
    checksum = await admin.fetchval(
        "SELECT md5(string_agg(name || md5(pg_read_binary_file($1 || name)), '' ORDER BY name))"
        # A cache of the catalog, written by whichever session comes first.
        " FROM pg_ls_dir($1) AS name WHERE name <> 'pg_internal.init'",
        f"base/{row['oid']}/",
    )
    return row, checksum


async def make_foreign(
    admin: asyncpg.Connection, dsn: str, database: str, comment: str | None = None
) -> None:
    """A database that is no instance's, with content, under the given name."""
    await admin.execute(f'CREATE DATABASE "{database}" STRATEGY file_copy')
    await comment_on(admin, database, comment)
    session = await asyncpg.connect(dsn, database=database)
    await session.execute(
        "CREATE TABLE treasure AS SELECT n, md5(n::text) FROM generate_series(1, 5000) AS n"
    )
    await session.execute("VACUUM (FREEZE, ANALYZE)")
    await session.close()


async def oid_of(admin: asyncpg.Connection, database: str) -> int | None:
    row = await row_of(admin, database)
    return None if row is None else int(row["oid"])


@asynccontextmanager
async def exchanging_by_hand(
    admin: asyncpg.Connection, database: str
) -> AsyncIterator[tuple[int | None, int | None]]:
    """Give the name of `database` to another one, in a transaction that is committed after the body.

    Gives the OIDs of both. What had the name is `<name>_aside` then.
    """
    other = f"{database}_other"
    await admin.execute(f'CREATE DATABASE "{other}" OWNER ods_service STRATEGY file_copy')
    oids = await oid_of(admin, database), await oid_of(admin, other)
    async with admin.transaction():
        await exchange_names(admin, database)
        yield oids


async def exchange_names(admin: asyncpg.Connection, database: str) -> None:
    """Give the name of `database` to `<name>_other`; what had it is `<name>_aside` then."""
    await admin.execute(f'ALTER DATABASE "{database}" RENAME TO "{database}_aside"')
    await admin.execute(f'ALTER DATABASE "{database}_other" RENAME TO "{database}"')


async def still_due() -> None:
    """Stands for the question whether the database is to be dropped: it is."""


@asynccontextmanager
async def holding_comment(admin: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Write the comment of `database` once more, in a transaction that is committed after the body."""
    row = await row_of(admin, database)
    assert row is not None
    statement = "SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)"
    async with admin.transaction():
        await admin.execute(await admin.fetchval(statement, database, row["comment"]))
        yield


async def waits_for_names(admin: asyncpg.Connection) -> bool:
    """Whether a session waits for another one that changes databases."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype <> 'advisory')"
    return bool(await admin.fetchval(waiting))


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 5) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def persistent_sessions(
    admin: asyncpg.Connection, dsn: str, database: str, number: int
) -> AsyncIterator[None]:
    """Sessions that are opened again as soon as they end."""

    async def insist() -> None:
        while True:
            with suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
                async with session(f"{dsn}/{database}") as connection:
                    await connection.fetchval("SELECT pg_sleep(3600)")
            await asyncio.sleep(0)

    insisting = [asyncio.create_task(insist()) for _ in range(number)]
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND query LIKE '%pg_sleep%'"
    try:
        await until(lambda: _reaches(admin, sleeping, database, number), 20)
        yield
    finally:
        for task in insisting:
            task.cancel()
        await asyncio.gather(*insisting, return_exceptions=True)


async def _reaches(admin: asyncpg.Connection, query: str, database: str, number: int) -> bool:
    found: int = await admin.fetchval(query, database)
    return found >= number


async def everything(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    """Catalogs, sequences and rows: whatever a migration could change."""
    tables = await connection.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('dbo', 'adminapi', 'public')"
    )
    rows = {name: f"SELECT * FROM {name} ORDER BY 1" for (name,) in tables}  # noqa: S608 - the catalog's names
    return {name: await connection.fetch(query) for name, query in (CATALOGS | rows).items()}


async def privileges_on(admin: asyncpg.Connection, database: str) -> list[str]:
    """The privileges of each role on a database, whether they are written out or those by default."""
    granted: list[str] = await admin.fetchval(
        "SELECT array_agg(privilege::text ORDER BY privilege::text) FROM pg_database,"
        " aclexplode(coalesce(datacl, acldefault('d', datdba))) AS privilege WHERE datname = $1",
        database,
    )
    return granted


async def let_minutes_pass_in_trash(admin: asyncpg.Connection, database: str, minutes: int) -> None:
    """The database was put into the trash earlier by so many minutes."""
    row = await row_of(admin, database)
    assert row is not None
    fields = json.loads(row["comment"])
    earlier = datetime.fromisoformat(fields["trashedAt"]) - timedelta(minutes=minutes)
    fields["trashedAt"] = earlier.isoformat()
    comment = await admin.fetchval("SELECT quote_literal($1)", json.dumps(fields))
    await admin.execute(f'COMMENT ON DATABASE "{database}" IS {comment}')
