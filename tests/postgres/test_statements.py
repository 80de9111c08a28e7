"""Every way to run a statement translates the errors of PostgreSQL and of the connection."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from ods.databases import statements
from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError
from ods.databases.server import Server

Statement = Callable[[asyncpg.Connection, str], Awaitable[Any]]

STATEMENTS = [statements.execute, statements.fetch_rows, statements.fetch_row, statements.fetch_value]


@pytest.mark.parametrize("run", STATEMENTS)
async def test_fault_has_the_sqlstate_when_postgresql_refuses(server: Server, run: Statement) -> None:
    async with server.session() as session:
        with pytest.raises(DatabaseFaultError, match="SQLSTATE 22012") as caught:
            await run(session, "SELECT 1 / 0")
    assert (caught.value.sqlstate, caught.value.outage) == ("22012", False)


@pytest.mark.parametrize("run", STATEMENTS)
async def test_fault_is_an_outage_when_the_connection_has_broken(server: Server, run: Statement) -> None:
    async with server.connected("postgres") as session:
        session.terminate()
        with pytest.raises(DatabaseFaultError, match="cannot be reached") as caught:
            await run(session, "SELECT 1")
    assert caught.value.outage


@pytest.mark.parametrize("run", [statements.execute, statements.fetch_rows, statements.fetch_value])
async def test_fault_has_the_reason_of_the_step_when_one_is_given(server: Server, run: Any) -> None:
    reasons = {INSUFFICIENT_PRIVILEGE: "Grant it."}
    async with server.session() as session:
        with pytest.raises(DatabaseFaultError, match=r"^Grant it\.$"):
            await run(session, "SELECT pg_read_file('PG_VERSION')", reasons=reasons)


async def test_names_and_literals_are_quoted_when_ddl_contains_them(server: Server) -> None:
    name, literal = 'a "quoted" name', "it's a literal"
    async with server.session() as session, session.transaction():
        await statements.execute(session, "CREATE TEMP TABLE %I (id int)", name)
        await statements.execute(session, "COMMENT ON TABLE %I IS %L", name, literal)
        found = await statements.fetch_value(
            session, "SELECT obj_description(oid) FROM pg_class WHERE relname = $1", name
        )
        assert found == literal
        assert await statements.fetch_row(session, "SELECT 1 WHERE false") is None
