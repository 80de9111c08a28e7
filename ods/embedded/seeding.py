"""What the embedded server needs before the service starts: a role, the registry database, templates."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg

SERVICE_ROLE = "ods_service"
RESTORE_ROLE = "ods_restore"
RESTORED_OWNER = "ods_restored"
REGISTRY_DATABASE = "EdFi_Admin"
MINIMAL_SCRIPTS = ("minimal.sql",)
SAMPLE_SCRIPTS = ("minimal.sql", "sample.sql")

_SCRIPTS = Path(__file__).parent / "templates"
_UNFINISHED = "ods_unfinished_template"

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def ensure_service_role(superuser_dsn: str, password: str) -> None:
    """Create the role of API and worker: it may create databases, see and end sessions, and no more."""
    async with _connection(superuser_dsn) as server:
        if not await server.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", SERVICE_ROLE):
            await server.execute(f"CREATE ROLE {SERVICE_ROLE}")
        await server.execute(f"ALTER ROLE {SERVICE_ROLE} LOGIN CREATEDB NOSUPERUSER PASSWORD '{password}'")
        await server.execute(f"GRANT pg_signal_backend, pg_read_all_stats TO {SERVICE_ROLE}")


async def ensure_restore_roles(superuser_dsn: str, password: str) -> None:
    """Create the login that restores, without any right, and the role that owns what it has restored."""
    async with _connection(superuser_dsn) as server:
        for role in (RESTORE_ROLE, RESTORED_OWNER):
            if not await server.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
                await server.execute(f"CREATE ROLE {role}")
        await server.execute(f"ALTER ROLE {RESTORE_ROLE} LOGIN PASSWORD '{password}'")
        await server.execute(f"GRANT {RESTORE_ROLE}, {RESTORED_OWNER} TO {SERVICE_ROLE}")


async def ensure_registry_database(dsn: str, owner: str = SERVICE_ROLE) -> bool:
    """Create the registry database, without tables, unless it is there; whether it was created."""
    async with _connection(dsn) as server:
        if await database_exists(server, REGISTRY_DATABASE):
            return False
        try:
            await server.execute(f"CREATE DATABASE {_quoted(REGISTRY_DATABASE)} OWNER {_quoted(owner)}")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            return False  # another session has created it meanwhile
        return True


async def ensure_template(service_dsn: str, name: str, scripts: Sequence[str]) -> bool:
    """Create the template database `name` from `scripts`, closed to sessions so that it can always be cloned.

    It gets its name in the last step, together with its properties, so that what an interrupted attempt
    leaves is never mistaken for a template.

    Returns:
        whether it was created; one that is there is left as it is.
    """
    async with _connection(service_dsn) as server:
        if await database_exists(server, name):
            return False
        await server.execute(f"DROP DATABASE IF EXISTS {_UNFINISHED} WITH (FORCE)")
        await server.execute(f"CREATE DATABASE {_UNFINISHED}")
        async with _connection(service_dsn, database=_UNFINISHED) as template:
            for script in scripts:
                await template.execute((_SCRIPTS / script).read_text())
        async with server.transaction():
            await server.execute(f"ALTER DATABASE {_UNFINISHED} IS_TEMPLATE true ALLOW_CONNECTIONS false")
            await server.execute(f"ALTER DATABASE {_UNFINISHED} RENAME TO {_quoted(name)}")
        return True


async def database_exists(server: _Connection, database: str) -> bool:
    """Whether the server has a database of this name."""
    return bool(await server.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", database))


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


@asynccontextmanager
async def _connection(dsn: str, database: str | None = None) -> AsyncIterator[_Connection]:
    connection = await asyncpg.connect(dsn, database=database)
    try:
        yield connection
    finally:
        await connection.close()
