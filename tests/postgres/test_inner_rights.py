"""Rights within a database that was restored, where all belongs to the role of the service."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.databases.rights.inner import give_rights, read_rights
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import service_dsn, session

_OWNER, _SERVICE = "The owner's role", "ods_service"
_OBJECTS = """
CREATE SCHEMA edfi; CREATE TABLE edfi."The table" (id int); CREATE SEQUENCE edfi."The sequence";
CREATE TABLE edfi.kept (id int)
"""
# Each beside others that have its name, and some of its types.
_ROUTINES = """
CREATE SCHEMA routines;
CREATE PROCEDURE routines.sync("since, 'when'" int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE routines.sync(OUT done int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE routines.sync(text, OUT int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE routines.loaded(OUT done int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION routines.loaded(int, OUT a int, OUT b int) LANGUAGE sql AS 'SELECT 1, 1';
CREATE TYPE routines."a type, (and)" AS ENUM ('one');
CREATE PROCEDURE routines."a ""(name"(routines."a type, (and)"[], INOUT "char", VARIADIC numeric[])
    LANGUAGE sql AS $$SELECT 'c'::"char"$$;
CREATE AGGREGATE routines.total(int) (sfunc = int4pl, stype = int);
CREATE AGGREGATE routines.total(*) (sfunc = int8inc, stype = int8, initcond = '0');
CREATE AGGREGATE routines.placed(ORDER BY int) (sfunc = int4pl, stype = int)
"""
_OWNED = f"""
ALTER SCHEMA edfi OWNER TO "{_OWNER}"; ALTER TABLE edfi."The table" OWNER TO "{_OWNER}";
ALTER SEQUENCE edfi."The sequence" OWNER TO "{_OWNER}"
"""
_EACH_ROUTINE = (
    "PROCEDURE routines.sync(IN int)",
    "PROCEDURE routines.sync(OUT int)",
    "PROCEDURE routines.sync(IN text, OUT int)",
    "PROCEDURE routines.loaded(OUT int)",
    "FUNCTION routines.loaded(int)",
    'PROCEDURE routines."a ""(name"(IN routines."a type, (and)"[], INOUT "char", VARIADIC numeric[])',
    "FUNCTION routines.total(int)",
    "FUNCTION routines.total()",
    "FUNCTION routines.placed(int)",
)
_RIGHTS_ON_ROUTINES = """
SELECT oid::regprocedure::text, proacl::text FROM pg_proc
WHERE pronamespace = 'routines'::regnamespace ORDER BY 1
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


async def test_each_routine_has_its_own_rights_when_others_have_its_name(
    databases: tuple[str, str], postgres: EmbeddedPostgres
) -> None:
    source, copy = databases
    async with (
        session(service_dsn(postgres, source)) as inside,
        session(service_dsn(postgres, copy)) as other,
    ):
        for each in (inside, other):
            await each.execute(_ROUTINES)
        for routine in _EACH_ROUTINE:
            await inside.execute(f'REVOKE ALL ON {routine} FROM PUBLIC; GRANT ALL ON {routine} TO "{_OWNER}"')
            rights = await read_rights(inside)
            await give_rights(other, rights)
            assert await other.fetch(_RIGHTS_ON_ROUTINES) == await inside.fetch(_RIGHTS_ON_ROUTINES), routine


async def test_rights_on_a_procedure_are_given_when_an_earlier_release_has_read_them(
    databases: tuple[str, str], postgres: EmbeddedPostgres
) -> None:
    earlier = {"kind": "ROUTINE", "schema": "routines", "name": "sync", "part": "integer"}
    async with session(service_dsn(postgres, databases[1])) as inside:
        await inside.execute(_ROUTINES)
        await give_rights(inside, [{**earlier, "role": "", "privileges": [], "grantable": False}])
        rights = await inside.fetch(_RIGHTS_ON_ROUTINES)
        assert [name for name, held in rights if held] == ["routines.sync(integer)"]


async def test_rights_on_a_multirange_of_postgresql_16_keep_no_copy_from_the_other_rights(
    postgres: EmbeddedPostgres, databases: tuple[str, str]
) -> None:
    """Since 17, a multirange has the rights of its range, and takes none."""
    right = {"schema": "edfi", "part": "", "role": "", "privileges": ["USAGE"], "grantable": False}
    rights = [
        {"kind": "TYPE", "name": "span_multirange", **right},
        {"kind": "TYPE", "name": "span", **right},
    ]
    async with session(service_dsn(postgres, databases[1])) as inside:
        await inside.execute("CREATE TYPE edfi.span AS RANGE (subtype = int)")
        await give_rights(inside, rights)
        assert await inside.fetchval("SELECT typacl IS NOT NULL FROM pg_type WHERE typname = 'span'")
