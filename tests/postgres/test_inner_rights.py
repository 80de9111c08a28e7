"""Rights within a database that was restored, where all belongs to the role of the service."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from databases.inner_rights import give_rights, read_rights
from embedded.postgres import EmbeddedPostgres
from tests.servers import service_dsn, session

_OWNER, _SERVICE = "The owner's role", "ods_service"
_OBJECTS = """
CREATE SCHEMA edfi; CREATE TABLE edfi."The table" (id int); CREATE SEQUENCE edfi."The sequence";
CREATE TABLE edfi.kept (id int)
"""
_OWNED = f"""
ALTER SCHEMA edfi OWNER TO "{_OWNER}"; ALTER TABLE edfi."The table" OWNER TO "{_OWNER}";
ALTER SEQUENCE edfi."The sequence" OWNER TO "{_OWNER}"
"""


@pytest.fixture
async def databases(postgres: EmbeddedPostgres, admin: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """Two databases with the same objects: another role owns them in the first, the service in the second."""
    names = "Rights of the source", "Rights of the copy"
    await admin.execute(f'CREATE ROLE "{_OWNER}"')
    try:
        for name in names:
            await admin.execute(f'CREATE DATABASE "{name}" OWNER {_SERVICE}')
            async with session(service_dsn(postgres, name)) as inside:
                await inside.execute(_OBJECTS)
        async with session(postgres.dsn(names[0])) as inside:
            await inside.execute(_OWNED)
        yield names
    finally:
        for name in names:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.execute(f'DROP ROLE "{_OWNER}"')


async def test_role_that_owned_what_was_restored_may_do_what_it_might_when_it_is_given_its_rights(
    databases: tuple[str, str], postgres: EmbeddedPostgres
) -> None:
    source, copy = databases
    async with session(service_dsn(postgres, source)) as inside:
        rights = await read_rights(inside)
    async with session(service_dsn(postgres, copy)) as inside:
        await give_rights(inside, rights)
        for right in (
            """schema_privilege($1, 'edfi', 'USAGE')""",
            """table_privilege($1, 'edfi."The table"', 'SELECT')""",
            """table_privilege($1, 'edfi."The table"', 'DELETE')""",
            """sequence_privilege($1, 'edfi."The sequence"', 'USAGE')""",
        ):
            assert await inside.fetchval(f"SELECT has_{right}", _OWNER), right
        assert not await inside.fetchval("SELECT has_table_privilege($1, 'edfi.kept', 'SELECT')", _OWNER)
