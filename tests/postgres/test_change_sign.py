"""Which writes change the sign of a database, and when nothing can be concluded from the same sign."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection import change_sign
from ods.databases.inspection.change_sign import is_quiet, read_sign
from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.replication import replicated_pair
from tests.servers import NUMBERS, POSTGRES_VERSION, seeded_postgres, service_dsn, session

_TELLS_ALL_SINCE = 18
_DETACH = "ALTER SUBSCRIPTION followed SET (slot_name = NONE); "
_TABLES = """
CREATE TABLE rows (id serial PRIMARY KEY, text text);
INSERT INTO rows (text) SELECT repeat('x', 100) FROM generate_series(1, 100);
CREATE UNLOGGED TABLE unlogged (id int);
CREATE TABLE other (id int);
CREATE TABLE years (year int) PARTITION BY LIST (year);
CREATE TABLE years_2027 PARTITION OF years FOR VALUES IN (2027);
CREATE SEQUENCE numbers;
CREATE SEQUENCE unused;
CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM rows;
CREATE TYPE mood AS ENUM ('sad');
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE insert_twice() LANGUAGE plpgsql AS
    'BEGIN INSERT INTO other VALUES (1); COMMIT; INSERT INTO other VALUES (2); COMMIT; END';
SELECT lo_create(4711)
"""

COUNTED: Mapping[str, str] = {
    "INSERT": "INSERT INTO rows (id, text) VALUES (1000, 'y')",
    "INSERT, unlogged table": "INSERT INTO unlogged VALUES (1)",
    "INSERT, partition": "INSERT INTO years VALUES (2027)",
    "INSERT, rolled back": "BEGIN; INSERT INTO other VALUES (1); ROLLBACK",
    "UPDATE": "UPDATE rows SET text = 'y' WHERE id = 1",
    "DELETE": "DELETE FROM rows WHERE id = 1",
    "MERGE": "MERGE INTO other USING (SELECT 1 AS id) AS it ON other.id = it.id"
    " WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "ON CONFLICT DO UPDATE": "INSERT INTO rows (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET text = 'z'",
    "a procedure that commits": "CALL insert_twice()",
    "COPY": "COPY other FROM PROGRAM 'echo 1'",
    "COPY FREEZE": "BEGIN; TRUNCATE other; COPY other FROM PROGRAM 'echo 1' (FREEZE); COMMIT",
    "TRUNCATE": "TRUNCATE other",
    "TRUNCATE of rows": "TRUNCATE rows",
    "TRUNCATE RESTART IDENTITY": "TRUNCATE rows RESTART IDENTITY",
    "CREATE TABLE": "CREATE TABLE new (id int)",
    "CREATE TABLE AS": "CREATE TABLE new AS SELECT * FROM rows",
    "CREATE TABLE, emptied at once": "BEGIN; CREATE TABLE new AS SELECT 1; TRUNCATE new; COMMIT",
    "ALTER TABLE ADD COLUMN": "ALTER TABLE other ADD COLUMN more int DEFAULT 1",
    "ALTER TABLE, rewritten": "ALTER TABLE rows ALTER COLUMN text TYPE varchar(200)",
    "DROP TABLE": "DROP TABLE other",
    "CREATE INDEX": "CREATE INDEX ON rows (text)",
    "REINDEX": "REINDEX TABLE rows",
    "VACUUM FULL": "VACUUM FULL rows",
    "ANALYZE": "ANALYZE rows",
    "CREATE VIEW": "CREATE VIEW looked AS SELECT * FROM rows",
    "REFRESH MATERIALIZED VIEW": "REFRESH MATERIALIZED VIEW sums",
    "CREATE OR REPLACE FUNCTION": "CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "ALTER TYPE ADD VALUE": "ALTER TYPE mood ADD VALUE 'glad'",
    "CREATE SCHEMA": "CREATE SCHEMA new",
    "GRANT on a table": "GRANT SELECT ON rows TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES": "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "COMMENT ON TABLE": "COMMENT ON TABLE rows IS 'rows'",
    "ALTER TABLE OWNER": "ALTER TABLE other OWNER TO postgres",
    "ENABLE ROW LEVEL SECURITY": "ALTER TABLE other ENABLE ROW LEVEL SECURITY",
    "ALTER SEQUENCE RESTART": "ALTER SEQUENCE numbers RESTART 7",
    "ALTER SEQUENCE INCREMENT": "ALTER SEQUENCE numbers INCREMENT 2",
    "lo_create": "SELECT lo_create(4712)",
    "lo_put": "SELECT lo_put(4711, 0, 'data')",
    "lo_unlink": "SELECT lo_unlink(4711)",
    "a temporary table": "CREATE TEMPORARY TABLE mine AS SELECT 1",
}
OF_SEQUENCES: Mapping[str, str] = {
    "nextval": "SELECT nextval('numbers')",
    "nextval, rolled back": "BEGIN; SELECT nextval('numbers'); ROLLBACK",
    "nextval of a column": "SELECT nextval('rows_id_seq')",
    "setval": "SELECT setval('numbers', 5)",
    "setval, not called": "SELECT setval('unused', 5, false)",
    "setval, called": "SELECT setval('unused', 1, true)",
}
NOT_SEEN: Mapping[str, str] = {
    "SELECT": "SELECT count(*) FROM rows",
    "SELECT FOR UPDATE": "SELECT FROM rows FOR UPDATE",
    "VACUUM": "VACUUM rows",
    "VACUUM FREEZE": "VACUUM (FREEZE) rows",
    "CHECKPOINT": "CHECKPOINT",
    "LOCK TABLE": "BEGIN; LOCK TABLE rows; COMMIT",
    # In no dump:
    "ALTER DATABASE SET": "ALTER DATABASE {database} SET work_mem = '5MB'",
    "ALTER ROLE IN DATABASE SET": "ALTER ROLE {role} IN DATABASE {database} SET work_mem = '5MB'",
    "COMMENT ON DATABASE": "COMMENT ON DATABASE {database} IS 'a comment'",
    "GRANT ON DATABASE": "GRANT CONNECT ON DATABASE {database} TO {role}",
}


@asynccontextmanager
async def database_on(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of the service's role with a table of each kind."""
    name = f"signed_{next(NUMBERS)}"
    async with session(server.dsn()) as admin:
        await admin.execute(f"CREATE DATABASE {name} OWNER {seeding.SERVICE_ROLE} STRATEGY file_copy")
    try:
        async with session(service_dsn(server, name)) as inside:
            await inside.execute(_TABLES)
        yield name
    finally:
        async with session(server.dsn()) as admin:  # the test may have ended all sessions
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with database_on(postgres) as name:
        yield name


async def sign_of(server: EmbeddedPostgres, database: str) -> str:
    async with session(service_dsn(server, database)) as inside:
        sign = await read_sign(inside)
    assert sign is not None
    return sign


async def change(server: EmbeddedPostgres, database: str, statements: str) -> None:
    """Run statements as a superuser, in a session that ends: it reports what it has written."""
    async with session(server.dsn(database)) as inside:
        for statement in statements.format(database=database, role=seeding.SERVICE_ROLE).split("; "):
            await inside.execute(statement)


@pytest.mark.parametrize("write", COUNTED)
async def test_counters_differ_when_a_table_or_the_catalog_is_written_to(
    postgres: EmbeddedPostgres, database: str, write: str
) -> None:
    before = (await sign_of(postgres, database)).split()
    await change(postgres, database, COUNTED[write])
    after = (await sign_of(postgres, database)).split()
    assert after[5:8] != before[5:8]
    assert after[:5] == before[:5]


@pytest.mark.parametrize("write", OF_SEQUENCES)
async def test_values_differ_when_a_sequence_goes_on(
    postgres: EmbeddedPostgres, database: str, write: str
) -> None:
    before = (await sign_of(postgres, database)).split()
    await change(postgres, database, OF_SEQUENCES[write])
    after = (await sign_of(postgres, database)).split()
    assert after[:-1] == before[:-1]  # it is not counted
    assert after[-1] != before[-1]


@pytest.mark.usefixtures("ods_api")
@pytest.mark.parametrize("write", OF_SEQUENCES)
async def test_sign_is_not_the_same_when_a_sequence_of_another_role_goes_on(
    postgres: EmbeddedPostgres, database: str, write: str
) -> None:
    """Before PostgreSQL 18 there is none, while such a sequence has given no value."""
    for name in ("rows", "numbers", "unused"):
        await change(postgres, database, f"ALTER TABLE {name} OWNER TO ods_api")
    await change(postgres, database, "GRANT SELECT ON rows_id_seq, numbers, unused TO {role}")
    async with session(service_dsn(postgres, database)) as inside:
        before = await read_sign(inside)
        await change(postgres, database, OF_SEQUENCES[write])
        after = await read_sign(inside)
    assert (before is None) is (int(POSTGRES_VERSION) < _TELLS_ALL_SINCE)
    assert after is None or after != before


@pytest.mark.parametrize("use", NOT_SEEN)
async def test_sign_is_the_same_when_a_dump_would_be(
    postgres: EmbeddedPostgres, database: str, use: str
) -> None:
    before = await sign_of(postgres, database)
    await change(postgres, database, NOT_SEEN[use])
    assert await sign_of(postgres, database) == before


async def test_sign_differs_when_another_database_has_the_name(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str
) -> None:
    before = await sign_of(postgres, database)
    await admin.execute(f"ALTER DATABASE {database} RENAME TO {database}_old")
    await admin.execute(f"CREATE DATABASE {database} TEMPLATE {database}_old OWNER {seeding.SERVICE_ROLE}")
    try:
        assert await sign_of(postgres, database) != before
    finally:
        await admin.execute(f"DROP DATABASE {database}_old")


async def test_sign_differs_when_a_role_with_rights_has_another_name(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str
) -> None:
    await admin.execute("CREATE ROLE ods_reader")
    try:
        await change(postgres, database, "GRANT SELECT ON rows TO ods_reader")
        before = await sign_of(postgres, database)
        await admin.execute("ALTER ROLE ods_reader RENAME TO ods_other_reader")
        after = await sign_of(postgres, database)
        assert after.split()[:-1] == before.split()[:-1], "the name of a role is in no database"
        assert after != before
    finally:
        await admin.execute("ALTER ROLE ods_other_reader RENAME TO ods_reader")
        await change(postgres, database, "REVOKE ALL ON rows FROM ods_reader")
        await admin.execute("DROP ROLE ods_reader")


async def test_sign_differs_when_a_role_of_a_policy_has_another_name(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str
) -> None:
    await admin.execute("CREATE ROLE ods_reader")
    try:
        await change(postgres, database, "CREATE POLICY all_rows ON rows TO ods_reader USING (true)")
        before = await sign_of(postgres, database)
        await admin.execute("ALTER ROLE ods_reader RENAME TO ods_other_reader")
        after = await sign_of(postgres, database)
        assert after.split()[:-1] == before.split()[:-1], "the name of a role is in no database"
        assert after != before
    finally:
        await admin.execute("ALTER ROLE ods_other_reader RENAME TO ods_reader")
        await change(postgres, database, "DROP POLICY all_rows ON rows")
        await admin.execute("DROP ROLE ods_reader")


async def test_sign_differs_when_a_tablespace_has_another_name(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str
) -> None:
    await admin.execute("SET allow_in_place_tablespaces = on")
    await admin.execute("CREATE TABLESPACE fast LOCATION ''")
    try:
        before = await sign_of(postgres, database)
        await admin.execute("ALTER TABLESPACE fast RENAME TO slow")
        assert await sign_of(postgres, database) != before
    finally:
        await admin.execute("DROP TABLESPACE slow")
        await admin.execute("RESET allow_in_place_tablespaces")


async def test_sign_differs_when_the_statistics_were_reset(postgres: EmbeddedPostgres, database: str) -> None:
    before = await sign_of(postgres, database)
    await change(postgres, database, "SELECT pg_stat_reset()")
    assert await sign_of(postgres, database) != before


@pytest.mark.parametrize("whose", ["DATABASE {database}", "ROLE ods_uncounted IN DATABASE {database}"])
async def test_there_is_no_sign_when_changes_are_not_counted(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str, whose: str
) -> None:
    await admin.execute("CREATE ROLE ods_uncounted")
    try:
        await admin.execute(f"ALTER {whose.format(database=database)} SET track_counts = off")
        async with session(service_dsn(postgres, database)) as inside:
            assert await read_sign(inside) is None
        await admin.execute(f"ALTER {whose.format(database=database)} RESET track_counts")
    finally:
        await admin.execute("DROP ROLE ods_uncounted")


async def test_database_is_not_quiet_while_a_session_may_not_have_reported_its_writes(
    postgres: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(service_dsn(postgres, database)) as inside:
        before = await read_sign(inside)
        assert await is_quiet(inside)
        async with session(service_dsn(postgres, database)) as writer:
            await writer.execute("SELECT pg_stat_force_next_flush()")
            await writer.execute("SELECT 1")  # what it writes within a second is reported later
            await writer.execute("INSERT INTO other VALUES (1)")
            assert not await is_quiet(inside)  # it was not idle for long
            await writer.execute("BEGIN")
            monkeypatch.setattr(change_sign, "_QUIET_SECONDS", 0)
            assert await read_sign(inside) == before  # it has committed, but does not report until it ends
            assert not await is_quiet(inside)
        await ended(inside)
        assert await is_quiet(inside)
        assert await read_sign(inside) != before


async def test_database_is_quiet_when_its_sessions_have_been_idle(
    postgres: EmbeddedPostgres, database: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_sign, "_QUIET_SECONDS", 0)
    async with session(service_dsn(postgres, database)), session(service_dsn(postgres, database)) as inside:
        assert await is_quiet(inside)
        async with session(f"{reader}/{database}") as limited:
            assert not await is_quiet(limited)  # it may not see what the others do


async def test_change_after_the_sign_is_seen_also_if_it_was_under_way_then(
    postgres: EmbeddedPostgres, database: str
) -> None:
    async with session(service_dsn(postgres, database)) as inside:
        async with session(service_dsn(postgres, database)) as writer:
            await writer.execute("BEGIN")
            await writer.execute("INSERT INTO other VALUES (1)")
            sign = await read_sign(inside)  # and now the dump begins, without that row
            assert not await is_quiet(inside)
            await writer.execute("COMMIT")
        await ended(inside)
        assert await read_sign(inside) != sign


async def test_sign_is_not_waited_for_when_another_session_keeps_a_sequence_locked(
    postgres: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_sign, "_LOCK_TIMEOUT", "50ms")
    async with (
        session(service_dsn(postgres, database)) as inside,
        session(service_dsn(postgres, database)) as changing,
        asyncio.timeout(10),
    ):
        await changing.execute("BEGIN; ALTER SEQUENCE numbers RENAME TO others")
        with pytest.raises(DatabaseFaultError, match="holds a lock") as caught:
            await read_sign(inside)
        assert caught.value.outage


async def ended(inside: asyncpg.Connection) -> None:
    """Wait until there is no other session on the database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

    async def is_alone() -> bool:
        return bool(await inside.fetchval(query) == 1)

    await wait_until(is_alone, 10)


@pytest.fixture(scope="module")
async def own_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server that tests stop and crash."""
    async with seeded_postgres(autovacuum="off", restart_after_crash="on") as server:
        yield server


async def test_sign_is_the_same_when_the_server_was_restarted(own_postgres: EmbeddedPostgres) -> None:
    async with database_on(own_postgres) as database:
        before = await sign_of(own_postgres, database)
        await own_postgres.stop()
        await own_postgres.start()
        assert await sign_of(own_postgres, database) == before


async def test_sign_differs_when_a_session_was_killed_which_loses_the_statistics(
    own_postgres: EmbeddedPostgres,
) -> None:
    async with database_on(own_postgres) as database:
        await change(own_postgres, database, "SELECT pg_stat_reset()")
        before = await sign_of(own_postgres, database)
        async with session(own_postgres.dsn()) as victim:
            os.kill(await victim.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
        await wait_until(own_postgres.answers, 30)
        after = await sign_of(own_postgres, database)
        assert after.split()[3] != before.split()[3]


async def test_sign_differs_when_the_server_was_killed(own_postgres: EmbeddedPostgres) -> None:
    async with database_on(own_postgres) as database:
        before = await sign_of(own_postgres, database)
        os.kill(own_postgres.pid, signal.SIGQUIT)
        await own_postgres.stop()
        await own_postgres.start()
        assert (await sign_of(own_postgres, database)).split()[3] != before.split()[3]


async def test_sign_differs_when_primary_and_standby_have_changed_places_and_back() -> None:
    async with replicated_pair() as pair:
        async with session(pair.primary.dsn()) as primary:
            await primary.execute("CREATE TABLE rows (id int)")
            before = await read_sign(primary)
        await pair.switchover()
        async with session(pair.primary.dsn()) as primary:
            assert await read_sign(primary) != before
            await primary.execute("INSERT INTO rows VALUES (1)")
        await pair.switchover()
        async with session(pair.primary.dsn()) as primary:
            after = await read_sign(primary)
        assert before is not None
        assert after is not None
        # The first primary has kept its counters, which know nothing of what was written on the other one.
        assert after.split()[1] > before.split()[1]
