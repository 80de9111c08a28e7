"""Changes of a database's form while pg_dump reads it: what it has read may not fit together."""

from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ods.backups.backing_up import back_up
from ods.backups.copying import copy_contents
from ods.backups.errors import BackupFaultError
from ods.backups.figures import verify
from ods.backups.manifest import BackupRequest, Manifest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.programs import process
from ods.programs.process import Command
from tests.servers import NUMBERS, service_dsn, session

_MAKE = """
CREATE SCHEMA live; CREATE TABLE live.loaded AS SELECT n, 'old' AS word FROM generate_series(1, 100) AS n;
CREATE SCHEMA later; CREATE TABLE later.loaded AS SELECT n, 'new' AS word FROM generate_series(1, 100) AS n;
CREATE SEQUENCE first; CREATE SEQUENCE second;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN small AS int CONSTRAINT is_small CHECK (VALUE < 10);
CREATE TABLE felt (id serial PRIMARY KEY, how mood DEFAULT 'glad', amount small, other int);
ALTER TABLE felt ADD CONSTRAINT has_other CHECK (other > 0) NOT VALID;
CREATE STATISTICS fitting ON amount, other FROM felt;
CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION touch_again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON felt FOR EACH ROW EXECUTE FUNCTION touch();
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
CREATE INDEX felt_other ON felt (other);
CREATE TABLE parted (n int) PARTITION BY LIST (n);
CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
CREATE INDEX parted_n ON parted (n);
CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION searching (COPY = simple);
CREATE VIEW seen AS SELECT n FROM live.loaded;
CREATE MATERIALIZED VIEW summed AS SELECT count(*) FROM live.loaded
"""
_EXCHANGED = (
    "ALTER SCHEMA live RENAME TO kept",
    "ALTER SCHEMA later RENAME TO live",
    "ALTER SCHEMA kept RENAME TO later",
)
_LABELS_EXCHANGED = (
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    "ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'",
    "ALTER TYPE mood RENAME VALUE 'blue' TO 'glad'",
)
_CHANGES = {
    "schemas exchanged": _EXCHANGED,
    "schemas exchanged and back": _EXCHANGED + _EXCHANGED,
    "schemas exchanged and back, with a right on one": (
        *_EXCHANGED,
        *_EXCHANGED,
        "GRANT USAGE ON SCHEMA live TO PUBLIC",
    ),
    "schema renamed": ("ALTER SCHEMA live RENAME TO earlier",),
    "function made anew": (
        "DROP FUNCTION answer()",
        "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 7'",
    ),
    "function replaced": ("CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 7'",),
    "aggregate replaced": ("CREATE OR REPLACE AGGREGATE total (int) (SFUNC = int4mul, STYPE = int)",),
    "trigger replaced": (
        "CREATE OR REPLACE TRIGGER touched BEFORE UPDATE ON felt FOR EACH ROW EXECUTE FUNCTION touch_again()",
    ),
    "index renamed": ("ALTER INDEX felt_other RENAME TO felt_another",),
    "index of a partitioned table renamed": ("ALTER INDEX parted_n RENAME TO parted_number",),
    "dictionary renamed": ("ALTER TEXT SEARCH DICTIONARY words RENAME TO terms",),
    "configuration renamed": ("ALTER TEXT SEARCH CONFIGURATION searching RENAME TO finding",),
    "view made anew": ("DROP VIEW seen", "CREATE VIEW seen AS SELECT n FROM live.loaded"),
    "view replaced": ("CREATE OR REPLACE VIEW seen AS SELECT n FROM later.loaded",),
    "view renamed": ("ALTER VIEW seen RENAME TO shown",),
    "column of a view renamed": ("ALTER VIEW seen RENAME n TO number",),
    "label renamed": ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",),
    "labels exchanged and back": _LABELS_EXCHANGED + _LABELS_EXCHANGED,
    "domain without its constraint": ("ALTER DOMAIN small DROP CONSTRAINT is_small",),
    "constraint validated": ("ALTER TABLE felt VALIDATE CONSTRAINT has_other",),
    "statistics dropped": ("DROP STATISTICS fitting",),
}
_CHANGES_OF_COPIES = {
    **_CHANGES,
    "sequences exchanged": (
        "ALTER SEQUENCE first RENAME TO third",
        "ALTER SEQUENCE second RENAME TO first",
        "ALTER SEQUENCE third RENAME TO second",
    ),  # a backup locks them
}
_HARMLESS = {
    "maintained": ("VACUUM (ANALYZE)", "REFRESH MATERIALIZED VIEW summed"),
    "written": (
        "INSERT INTO felt (other) VALUES (1)",
        "SELECT nextval('first')",
        "SELECT setval('second', 7)",
    ),
    "triggers off and on": (
        "ALTER TABLE felt DISABLE TRIGGER touched",
        "ALTER TABLE felt ENABLE TRIGGER touched",
    ),
    "rights and owners": (
        "GRANT USAGE ON SCHEMA live TO PUBLIC",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC",
        "GRANT USAGE ON TYPE mood TO PUBLIC",
        "GRANT SELECT ON seen TO PUBLIC",
        "GRANT SELECT (n) ON seen TO PUBLIC",
        "ALTER FUNCTION answer() OWNER TO CURRENT_USER",
        "ALTER VIEW seen OWNER TO CURRENT_USER",
        "ALTER TEXT SEARCH DICTIONARY words OWNER TO CURRENT_USER",
    ),
    "replaced by the same": (
        "CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'",
        "CREATE OR REPLACE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int)",
        "CREATE OR REPLACE VIEW seen AS SELECT n FROM live.loaded",
        "CREATE OR REPLACE TRIGGER touched BEFORE UPDATE ON felt FOR EACH ROW EXECUTE FUNCTION touch()",
    ),
    "objects made": (
        "CREATE TABLE more (id serial PRIMARY KEY, felt int REFERENCES felt)",
        "CREATE VIEW counted AS SELECT count(*) FROM more",
        "CREATE TABLE passing (id serial PRIMARY KEY, how mood, amount small)",
        "DROP TABLE passing",
        "CREATE FUNCTION added() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION added()",
    ),
    "temporary objects": (
        "CREATE TEMP TABLE passing (n serial)",
        "CREATE TEMP VIEW passed AS SELECT 1 AS n",
        "CREATE FUNCTION pg_temp.gone() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DISCARD TEMP",
    ),
}


@pytest.fixture
async def database(postgres: EmbeddedPostgres, server: Server) -> AsyncIterator[Database]:
    """A database with an object of each kind."""
    name = f"backups_formed_{next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f"CREATE DATABASE {name}")
        async with session(service_dsn(postgres, name)) as inside:
            await inside.execute(_MAKE)
        yield Database(server, name)
        await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def writer(database: Database, postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(service_dsn(postgres, database.name)) as connection:
        await connection.execute("SET lock_timeout = '5s'")
        yield connection


@pytest.fixture
def make_backup(
    database: Database, folder_store: BackupStore, wanted: BackupRequest, monitor: Monitor
) -> Callable[[], Awaitable[Manifest]]:
    return lambda: back_up(database, folder_store, wanted, monitor)


@pytest.fixture
def changes(writer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What another session runs between the moment and the start of pg_dump: a test puts statements in."""
    statements: list[str] = []
    start = process.start

    async def start_after_changes(command: Command, log: Path, **ends: Any) -> Process:
        while statements:
            await writer.execute(statements.pop(0))
        return await start(command, log, **ends)

    monkeypatch.setattr(process, "start", start_after_changes)
    return statements


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
async def test_no_backup_is_made_but_tried_again_when_the_form_changes_meanwhile(
    make_backup: Callable[[], Awaitable[Manifest]],
    folder_store: BackupStore,
    changes: list[str],
    change: tuple[str, ...],
) -> None:
    changes += change
    with pytest.raises(BackupFaultError, match="has renamed, replaced or dropped") as raised:
        await make_backup()
    assert raised.value.retryable
    assert not raised.value.outage
    assert await folder_store.list_objects() == []


async def test_backup_is_whole_when_sequences_are_set_back_meanwhile(
    make_backup: Callable[[], Awaitable[Manifest]],
    folder_store: BackupStore,
    empty: Database,
    monitor: Monitor,
    writer: asyncpg.Connection,
    changes: list[str],
) -> None:
    """They are in no snapshot: pg_dump reads them after the figures were read."""
    await writer.execute("SELECT setval('first', 70), setval('second', 70)")
    changes += ("SELECT setval('first', 7), setval('second', 1, false)",)
    made = await make_backup()
    assert (made.figures.sequences["public.first"], made.figures.sequences["public.second"]) == (7, None)
    await restore(folder_store, made, empty, monitor)
    assert await verify(empty, made.figures) == []


async def test_lower_value_is_expected_when_a_sequence_has_gone_on_meanwhile(
    make_backup: Callable[[], Awaitable[Manifest]], writer: asyncpg.Connection, changes: list[str]
) -> None:
    """pg_dump may have read it before."""
    await writer.execute("SELECT setval('first', 7)")
    changes += ("SELECT setval('first', 70), nextval('second')",)
    sequences = (await make_backup()).figures.sequences
    assert (sequences["public.first"], sequences["public.second"]) == (7, None)


@pytest.mark.parametrize("change", _CHANGES_OF_COPIES.values(), ids=_CHANGES_OF_COPIES)
async def test_no_copy_is_made_but_tried_again_when_the_form_changes_meanwhile(
    database: Database,
    empty: Database,
    monitor: Monitor,
    changes: list[str],
    change: tuple[str, ...],
) -> None:
    changes += change
    with pytest.raises(BackupFaultError, match="has renamed, replaced or dropped") as raised:
        await copy_contents(database, empty, monitor)
    assert raised.value.retryable
    assert not raised.value.outage


@pytest.mark.parametrize("change", _HARMLESS.values(), ids=_HARMLESS)
async def test_backup_is_whole_when_what_there_was_keeps_its_form(
    make_backup: Callable[[], Awaitable[Manifest]],
    folder_store: BackupStore,
    empty: Database,
    monitor: Monitor,
    changes: list[str],
    change: tuple[str, ...],
) -> None:
    changes += change
    made = await make_backup()
    assert changes == []
    await restore(folder_store, made, empty, monitor)
    assert await verify(empty, made.figures) == []
