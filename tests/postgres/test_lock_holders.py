"""DDL that waits for a lock of another session in vain: the message names that session."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.databases.changing import name_holder
from ods.databases.constants import LOCK_NOT_AVAILABLE, OBJECT_IN_USE
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import session


@pytest.fixture
async def impatient(
    server: Server, admin: asyncpg.Connection, database: str
) -> AsyncIterator[asyncpg.Connection]:
    """A session that waits for no lock for long, on a server that has the database."""
    await admin.execute(f'CREATE DATABASE "{database}" TEMPLATE template0 OWNER ods_service')
    async with server.session() as session:
        await execute(session, "SET lock_timeout = '50ms'")
        yield session
        await execute(session, "SET lock_timeout = '3s'")


async def fault_of(session: asyncpg.Connection, database: str, statement: str) -> DatabaseFaultError:
    with pytest.raises(DatabaseFaultError) as raised:
        async with name_holder(session, database):
            await execute(session, statement, database)
    return raised.value


async def test_idle_session_is_named_when_its_transaction_has_changed_the_database(
    impatient: asyncpg.Connection, server: Server, database: str
) -> None:
    async with server.session() as holder, holder.transaction():
        await execute(holder, "ALTER DATABASE %I CONNECTION LIMIT 7", database)
        fault = await fault_of(impatient, database, "ALTER DATABASE %I ALLOW_CONNECTIONS false")
        pid = holder.get_server_pid()
    assert f"process {pid} of the user ods_service" in fault.reason
    assert ", idle in transaction, its transaction began at 2" in fault.reason
    assert fault.reason.endswith(f"SELECT pg_terminate_backend({pid})")
    assert fault.outage
    assert fault.sqlstate == LOCK_NOT_AVAILABLE


async def test_no_session_is_named_when_the_lock_was_released_meanwhile(
    impatient: asyncpg.Connection, database: str
) -> None:
    statement = f"DO $$ BEGIN RAISE SQLSTATE '{LOCK_NOT_AVAILABLE}'; END $$ -- %I"
    fault = await fault_of(impatient, database, statement)
    assert fault.reason == f"Another session held a lock on the database '{database}' for several seconds."


@pytest.mark.parametrize("sqlstate", ["42501", "57014"])
async def test_fault_is_left_as_it_is_when_it_is_about_no_lock(
    impatient: asyncpg.Connection, database: str, sqlstate: str
) -> None:
    fault = await fault_of(impatient, database, f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$ -- %I")
    assert fault.sqlstate == sqlstate


async def test_prepared_transaction_is_named_that_keeps_a_database_from_being_dropped(
    impatient: asyncpg.Connection, postgres: EmbeddedPostgres, database: str
) -> None:
    async with session(postgres.dsn(database)) as inside:
        await inside.execute("BEGIN; CREATE TABLE half_done (); PREPARE TRANSACTION 'left by ''a program'")
    fault = await fault_of(impatient, database, "DROP DATABASE %I WITH (FORCE)")
    assert f"'{database}' has the prepared transaction 'left by ''a program', which" in fault.reason
    assert "ROLLBACK PREPARED 'left by ''a program'." in fault.reason
    assert (fault.outage, fault.retryable, fault.sqlstate) == (False, True, OBJECT_IN_USE)
    async with session(postgres.dsn(database)) as inside:
        await inside.execute("ROLLBACK PREPARED 'left by ''a program'")
    await execute(impatient, "DROP DATABASE %I WITH (FORCE)", database)


async def test_subscription_is_named_that_keeps_a_database_from_being_dropped(
    impatient: asyncpg.Connection, postgres: EmbeddedPostgres, database: str
) -> None:
    made = "CREATE SUBSCRIPTION \"From A\" CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)"
    async with session(postgres.dsn(database)) as inside:
        await inside.execute("SET client_min_messages = error")
        await inside.execute(made)
    fault = await fault_of(impatient, database, "DROP DATABASE %I WITH (FORCE)")
    assert f"The database '{database}' has the subscription \"From A\", which" in fault.reason
    assert fault.sqlstate == OBJECT_IN_USE
    remedy = fault.reason.split("can end: ")[1].split("; and its slot")[0]
    async with session(postgres.dsn(database)) as inside:
        for statement in remedy.split("; "):
            await inside.execute(statement)
    await execute(impatient, "DROP DATABASE %I WITH (FORCE)", database)


async def test_fault_is_left_as_it_is_when_sessions_use_the_database(
    impatient: asyncpg.Connection, database: str
) -> None:
    fault = await fault_of(impatient, database, f"DO $$ BEGIN RAISE SQLSTATE '{OBJECT_IN_USE}'; END $$ -- %I")
    assert "has the" not in fault.reason
