"""What an online copy is refused for is what it would fail for, and nothing else."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ods.backups.copying import copy_contents
from ods.backups.errors import BackupFaultError
from ods.backups.monitoring import program_log
from ods.backups.snapshots import Database
from ods.databases.copying import create_like
from ods.databases.rights.service_role import online_copy_obstacle
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import NUMBERS, product_server, service_dsn, session

_TABLE = (
    "CREATE TABLE {schema}.treasure AS SELECT 42 AS answer; ALTER TABLE {schema}.treasure OWNER TO {role};"
)
_FUNCTION = (
    "CREATE FUNCTION {schema}.answer() RETURNS int LANGUAGE sql AS 'SELECT 42';"
    " ALTER FUNCTION {schema}.answer() OWNER TO {role};"
)
_OWN_SCHEMA = "CREATE SCHEMA reports AUTHORIZATION {role};"
# The role of which the service's is a member, the one of which it is not, and the one of `initdb`.
_FRIEND, _STRANGER, _FIRST = "ods_friend", "ods_stranger", "postgres"

COPIED: Mapping[str, str] = {
    "all belongs to the service": _TABLE.format(schema="public", role="ods_service"),
    "a table of a member in its schema": (_OWN_SCHEMA + _TABLE + _FUNCTION).format(
        schema="reports", role=_FRIEND
    ),
    "a right of another role": f"GRANT CREATE ON SCHEMA public TO {_STRANGER}",
}
REFUSED: Mapping[str, tuple[str, str]] = {
    "a table of another role": ((_OWN_SCHEMA + _TABLE).format(schema="reports", role=_STRANGER), _STRANGER),
    "a function of another role": (_FUNCTION.format(schema="public", role=_STRANGER), _STRANGER),
    "a table of the first role": (_TABLE.format(schema="public", role=_FIRST), _FIRST),
    "a table of a member in another schema": (
        f"GRANT CREATE ON SCHEMA public TO {_FRIEND};" + _TABLE.format(schema="public", role=_FRIEND),
        f"objects of roles that do not own the schemas .*: {_FRIEND}",
    ),
}


@pytest.fixture
async def names(admin: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """The names of a database that is copied, and of its copy."""
    number = next(NUMBERS)
    names = (f"copied_{number}", f"copy_{number}")
    for role in (_FRIEND, _STRANGER):
        await admin.execute(f"CREATE ROLE {role}")
    await admin.execute(f"GRANT {_FRIEND} TO ods_service")
    await admin.execute(f"CREATE DATABASE {names[0]} OWNER ods_service")
    yield names
    for name in names:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    for role in (_FRIEND, _STRANGER):
        await admin.execute(f"DROP ROLE {role}")


@asynccontextmanager
async def made(
    postgres: EmbeddedPostgres, names: tuple[str, str], statements: str, *, with_login: bool = False
) -> AsyncIterator[tuple[Server, str | None]]:
    """The server with the database after the statements, and why that could not be copied online."""
    async with session(postgres.dsn(names[0])) as inside:
        await inside.execute(statements)
        await inside.execute("CREATE TEMPORARY TABLE passing (id int)")  # of the first role
        as_service = Server(service_dsn(postgres, "postgres"), restores_as_service=True)
        server = product_server(postgres) if with_login else as_service
        async with server.connected(names[0]) as own:
            yield server, await online_copy_obstacle(own, keeps_owners=not with_login)
        await server.close()


async def copy(server: Server, names: tuple[str, str]) -> None:
    source, target = names
    async with server.session() as maintenance:
        await create_like(maintenance, source, target)
    with program_log() as log:
        await copy_contents(Database(server, source), Database(server, target), log, with_owners=True)


@pytest.mark.parametrize("what", COPIED)
async def test_database_is_copied_when_nothing_is_found(
    postgres: EmbeddedPostgres, names: tuple[str, str], what: str
) -> None:
    async with made(postgres, names, COPIED[what]) as (server, obstacle):
        assert obstacle is None
        await copy(server, names)


@pytest.mark.parametrize("what", REFUSED)
async def test_copy_would_fail_when_something_is_found(
    postgres: EmbeddedPostgres, names: tuple[str, str], what: str
) -> None:
    statements, reason = REFUSED[what]
    async with made(postgres, names, statements) as (server, obstacle):
        assert re.search(reason, str(obstacle))
        with pytest.raises(BackupFaultError):
            await copy(server, names)


@pytest.mark.parametrize(
    "what", [*COPIED, "a function of another role", "a table of a member in another schema"]
)
async def test_database_is_copied_by_the_login_that_restores_whoever_owns_what_is_in_it(
    postgres: EmbeddedPostgres, names: tuple[str, str], what: str
) -> None:
    statements = COPIED[what] if what in COPIED else REFUSED[what][0]
    async with made(postgres, names, statements, with_login=True) as (server, obstacle):
        assert obstacle is None
        await copy(server, names)
        async with server.connected(names[1]) as inside:
            owners = await inside.fetch("SELECT tableowner FROM pg_tables WHERE tablename = 'treasure'")
            assert {row["tableowner"] for row in owners} <= {"ods_restored"}


@pytest.mark.parametrize("what", ["a table of another role", "a table of the first role"])
async def test_copy_by_the_login_that_restores_would_fail_when_the_service_may_not_read_a_table(
    postgres: EmbeddedPostgres, names: tuple[str, str], what: str
) -> None:
    statements, owner = REFUSED[what]
    async with made(postgres, names, statements, with_login=True) as (server, obstacle):
        assert re.search(f"may not read all .* belong to {owner}", str(obstacle))
        with pytest.raises(BackupFaultError):
            await copy(server, names)
