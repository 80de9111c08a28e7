"""The moment that a backup or an online copy shows, while other sessions write tables anew."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.backups import snapshots
from ods.backups.channels import unchanged
from ods.backups.client_programs import find_program
from ods.backups.dumping import DumpSource, dumping
from ods.backups.errors import ProgramFailedError
from ods.backups.figures import read_figures
from ods.backups.monitoring import Monitor
from ods.backups.snapshots import Database, snapshot
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.databases.statements import fetch_value
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import service_dsn, session

_MAKE = """
CREATE TABLE treasure AS SELECT n FROM generate_series(1, 1000) AS n;
CREATE TABLE parted (n int) PARTITION BY RANGE (n);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (2000);
INSERT INTO parted SELECT n FROM generate_series(1, 1000) AS n
"""
_REWRITES = {
    "loaded anew": "TRUNCATE treasure; INSERT INTO treasure SELECT n FROM generate_series(1, 1000) AS n",
    "of another type": "ALTER TABLE treasure ALTER n TYPE bigint",
    "exchanged": "CREATE TABLE fresh AS TABLE treasure; DROP TABLE treasure;"
    " ALTER TABLE fresh RENAME TO treasure",
    "renamed": "ALTER TABLE treasure RENAME TO kept; CREATE TABLE treasure AS TABLE kept",
    "in partitions": "TRUNCATE parted; INSERT INTO parted SELECT n FROM generate_series(1, 1000) AS n",
}
_WAITS = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = $1)
)
"""


@pytest.fixture
async def database(postgres: EmbeddedPostgres, server: Server) -> AsyncIterator[Database]:
    """A database with these tables."""
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute("CREATE DATABASE backups_written")
        async with session(service_dsn(postgres, "backups_written")) as inside:
            await inside.execute(_MAKE)
        yield Database(server, "backups_written")
        await maintenance.execute("DROP DATABASE backups_written WITH (FORCE)")


@pytest.fixture
async def writer(database: Database, postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(service_dsn(postgres, database.name)) as connection:
        yield connection


async def counted(database: Database) -> dict[str, int]:
    """How many rows each table has at the moment that a backup would show."""
    async with snapshot(database) as opened, opened.session() as inside:
        return {
            table.relation: await fetch_value(inside, f"SELECT count(*) FROM {table.quoted}")  # noqa: S608 - as above
            for table in opened.tables
        }


async def counted_while_written(
    database: Database, writer: asyncpg.Connection, statements: str
) -> asyncio.Task[dict[str, int]]:
    """The count, begun while a transaction of the writer is under way, which has committed by now."""

    async def waits() -> bool:
        return bool(await writer.fetchval(_WAITS, database.name))

    async with writer.transaction():
        await writer.execute(statements)
        counting = asyncio.create_task(counted(database))
        await wait_until(waits, 10)
    return counting


@pytest.mark.parametrize("statements", _REWRITES.values(), ids=_REWRITES)
async def test_all_rows_are_seen_when_a_table_was_written_anew_meanwhile(
    database: Database, writer: asyncpg.Connection, statements: str
) -> None:
    """A moment before the other transaction has committed would show that table empty."""
    counts = await (await counted_while_written(database, writer, statements))
    assert counts["treasure"] == 1000
    assert counts["part"] == 1000
    assert counts.get("kept", 1000) == 1000


async def test_session_that_writes_anew_waits_when_the_moment_is_shown(
    database: Database, writer: asyncpg.Connection
) -> None:
    async with snapshot(database) as opened, opened.session() as inside:
        await writer.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await writer.execute("TRUNCATE treasure")
        assert await fetch_value(inside, "SELECT count(*) FROM public.treasure") == 1000


async def test_moment_is_tried_again_later_when_tables_are_exchanged_all_the_time(
    database: Database, writer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_TRIES_TO_LOCK", 1)
    counting = await counted_while_written(database, writer, _REWRITES["exchanged"])
    with pytest.raises(DatabaseFaultError, match="all the time") as raised:
        await counting
    assert raised.value.retryable
    assert not raised.value.outage


async def test_table_of_configuration_is_locked_and_a_sequence_of_an_extension_is_not_counted(
    database: Database, writer: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    """pg_dump dumps the rows that users have added to the one, and does not know the other."""
    await writer.execute(
        "CREATE TABLE configured (n int); CREATE SEQUENCE counted; SELECT nextval('counted')"
    )
    async with session(postgres.dsn(database.name)) as superuser:
        await superuser.execute(
            "ALTER EXTENSION plpgsql ADD TABLE configured; ALTER EXTENSION plpgsql ADD SEQUENCE counted;"
            " UPDATE pg_extension"
            " SET extconfig = ARRAY['configured'::regclass::oid], extcondition = ARRAY['']"
        )
    assert (await read_figures(database)).sequences == {}
    async with snapshot(database):
        await writer.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await writer.execute("TRUNCATE configured")


async def test_session_waits_only_for_seconds_when_pg_dump_waits_for_it_and_it_for_the_moment(
    database: Database, writer: asyncpg.Connection, monitor: Monitor
) -> None:
    """No deadlock to PostgreSQL: the session that shows the moment is idle. The next try takes another."""

    async def waits() -> bool:
        async with database.server.connected("postgres") as maintenance:
            return bool(await fetch_value(maintenance, _WAITS, database.name))

    async with snapshot(database) as opened, opened.session() as inside:
        exported = await fetch_value(inside, "SELECT pg_export_snapshot()")
        emptying = asyncio.create_task(writer.execute("TRUNCATE treasure"))
        await wait_until(waits, 10)
        program = await find_program("pg_dump", inside.get_server_version().major)
        source = DumpSource(database, "test", exported, opened.tables, read_only=False, encoding="UTF8")
        async with asyncio.timeout(30), dumping(program, source, unchanged, monitor) as dump:
            with pytest.raises(ProgramFailedError):
                [chunk async for chunk in dump.chunks()]
    await emptying
