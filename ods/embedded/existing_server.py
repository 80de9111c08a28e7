"""An existing PostgreSQL server as the server of a stack: it is used, never stopped, and nothing is dropped.

What the stack makes there belongs to the role of the DSN: no role is made or changed.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from ods.embedded.data_folder import DataFolder, ExistingServerRecord, PostgresEntry, Secrets
from ods.embedded.errors import CommandError
from ods.embedded.registry import migrate
from ods.embedded.seeding import (
    MINIMAL_SCRIPTS,
    REGISTRY_DATABASE,
    SAMPLE_SCRIPTS,
    ensure_registry_database,
    ensure_template,
)
from ods.embedded.stack_server import MAINTENANCE_DATABASE, connection_string
from ods.embedded.supervisor import Supervisor
from ods.registry.rights.superusers import IS_SUPERUSER, superusers
from ods.registry.storage.connecting import connect
from ods.settings.settings import Settings

_DEFAULT_PORT = 5432
_CONNECT_SECONDS = 10
_OLDEST_VERSION = 15
"""The first whose CREATE DATABASE has a STRATEGY."""
_SCHEMES = ("postgresql", "postgres")
_SERVER = """
SELECT current_setting('server_version_num')::integer / 10000 AS version,
    (SELECT system_identifier::text FROM pg_control_system()) AS system,
    (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user) AS creates,
    pg_has_role('pg_signal_backend', 'USAGE') AS ends_sessions,
    pg_has_role('pg_read_all_stats', 'USAGE') AS sees_sessions,
    quote_ident(current_user) AS role
"""
_HAS_CLIENT = "SELECT EXISTS (SELECT FROM adminapi.applications WHERE clientid = $1)"
_PREPARING = 0x4F6453736565
"""The lock of a stack that prepares the server."""
_KEY = "ODS_ENCRYPTION_KEY"
_CONNECTION_STRING = "ODS_INSTANCE_CONNECTION_STRING"

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class ExistingServer:
    """A server that runs already.

    Args:
        dsn: a database of the server to which it can be connected while others are made and dropped; by
            default `postgres`. Without a password, that in the environment variable PGPASSWORD is taken.
        folder: of the stack; it keeps which server this is, and which databases were made there.
        secrets: of the stack.
        report: called with each message about the progress.

    Raises:
        CommandError: the DSN cannot be read, or the folder belongs to a stack with a server of its own.
    """

    spares = "0"
    """Its templates may be large, and its disk is shared: the operator may set ODS_SPARES."""
    starting = "Connecting to PostgreSQL ..."

    def __init__(self, dsn: str, folder: DataFolder, secrets: Secrets, report: Callable[[str], None]) -> None:
        self._read(dsn)
        if folder.postgres.exists():
            raise CommandError(
                f"The stack in {folder.path} has a PostgreSQL of its own: leave out --postgres to use it,"
                " or choose another folder with --data-dir."
            )
        self._folder = folder
        self._secrets = secrets
        self._report = report
        self._record: ExistingServerRecord
        self._set_by_operator = {name for name in (_KEY, _CONNECTION_STRING) if _is_set(name)}

    def environment(self) -> Mapping[str, str]:
        """The variables by which API and worker reach the server; those that the operator has set stay."""
        own = {
            _KEY: self._secrets.encryption_key,
            _CONNECTION_STRING: str(connection_string(self._host, self._port, self._user, self._password)),
        }
        return {
            "ODS_ADMIN_DSN": self._dsn(REGISTRY_DATABASE),
            "ODS_MASTER_DSN": self._dsn(self._database),
            **{name: value for name, value in own.items() if name not in self._set_by_operator},
        }

    async def start(self, _supervisor: Supervisor) -> None:
        """Check that the server answers, is new enough, the same as before, and lets the role make databases.

        Raises:
            CommandError: it does not; the message says what to do.
        """
        async with self._connected() as session:
            (row,) = await session.fetch(_SERVER)
        if row["version"] < _OLDEST_VERSION:
            raise CommandError(
                f"The server of --postgres is PostgreSQL {row['version']};"
                f" {_OLDEST_VERSION} or newer is needed."
            )
        if not row["creates"]:
            raise CommandError(
                f"The role of --postgres may not create databases;"
                f" run `ALTER ROLE {row['role']} CREATEDB` as a superuser, then start again."
            )
        if not row["ends_sessions"]:
            raise CommandError(
                "The role of --postgres may not end the sessions that keep a database from being dropped;"
                f" run `GRANT pg_signal_backend TO {row['role']}` as a superuser, then start again."
            )
        if not row["sees_sessions"]:
            raise CommandError(
                "The role of --postgres may not see how the databases are used;"
                f" run `GRANT pg_read_all_stats TO {row['role']}` as a superuser, then start again."
            )
        record = self._folder.existing_server() or {"system": row["system"], "made": []}
        if record["system"] != row["system"] and not await self._has_own_client():
            raise CommandError(
                f"The stack in {self._folder.path} works on another server than that of --postgres;"
                " name that one, or choose another folder with --data-dir."
            )
        self._record = {**record, "system": row["system"]}
        self._folder.store_existing_server(self._record)

    async def _has_own_client(self) -> bool:
        """Whether the stack's registry is on the server, as after pg_upgrade or a restore from dumps.

        API and worker change nothing there until the operator has confirmed that it is not a copy.
        """
        try:
            async with self._connected(REGISTRY_DATABASE) as session:
                return bool(await session.fetchval(_HAS_CLIENT, self._secrets.client_id))
        except (CommandError, asyncpg.PostgresError):
            return False

    async def prepare(self, settings: Settings) -> None:
        """Make the registry, its tables and the templates, where they are missing, and say what was made.

        Raises:
            CommandError: they cannot be made, the registry is not the folder's and its key is not known, or
                API and worker would not start.
        """
        try:
            if not settings.allow_superuser:
                await self._require_no_superuser()
            await self._prepare(settings)
        except (OSError, asyncpg.PostgresError) as error:
            raise CommandError(
                "The databases cannot be prepared on the server of --postgres"
                f" ({_code(error)}); the server's log says why."
            ) from None

    async def _require_no_superuser(self) -> None:
        async with self._connected() as session:
            found = await superusers(session)
        for role in found:
            raise CommandError(
                f"The role {role} of --postgres {IS_SUPERUSER}. Name another one, with CREATEDB and in the"
                " groups pg_signal_backend and pg_read_all_stats; or set ODS_ALLOW_SUPERUSER=true."
            )

    def entry(self, pids: Mapping[str, int]) -> PostgresEntry:  # noqa: ARG002 - the server is no child
        """How operator and commands reach the server, as the role of the DSN."""
        return {"admin_dsn": self._dsn(REGISTRY_DATABASE), "master_dsn": self._dsn(self._database)}

    async def _prepare(self, settings: Settings) -> None:
        dsn = self._dsn(self._database)
        made = []
        if await ensure_registry_database(dsn, self._user):
            made.append(self._made(REGISTRY_DATABASE))
        self._require_key()
        async with self._preparing():
            await migrate(self._dsn(REGISTRY_DATABASE))
            for template, scripts in (
                (settings.minimal_template, MINIMAL_SCRIPTS),
                (settings.sample_template, SAMPLE_SCRIPTS),
            ):
                if await ensure_template(dsn, template, scripts):
                    made.append(self._made(template))
        self._report(_told(made, self._secrets.client_id))

    def _require_key(self) -> None:
        """Refuse to encrypt with a new key what an ODS/API shall decrypt that has a key already."""
        if REGISTRY_DATABASE not in self._record["made"] and _KEY not in self._set_by_operator:
            raise CommandError(
                f"The server of --postgres has a database {REGISTRY_DATABASE} that was not made from"
                f" {self._folder.path}. Set {_KEY} to the key with which its ODS/API decrypts"
                " connection strings, then start again."
            )

    @asynccontextmanager
    async def _preparing(self) -> AsyncIterator[None]:
        """While the block runs, no other stack does the same: each makes templates under one private name.

        The lock is the registry's, which all of them have in common, whatever database their DSNs name.
        """
        async with self._connected(REGISTRY_DATABASE) as session:
            if not await session.fetchval("SELECT pg_try_advisory_lock($1)", _PREPARING):
                self._report("Waiting until another stack has prepared the server ...")
                await session.execute("SELECT pg_advisory_lock($1)", _PREPARING)
            yield

    def _made(self, database: str) -> str:
        """Keep that `database` was made from this folder."""
        self._record["made"].append(database)
        self._folder.store_existing_server(self._record)
        return database

    def _read(self, dsn: str) -> None:
        url = urlsplit(dsn)
        try:
            self._port = url.port or _DEFAULT_PORT
        except ValueError:
            raise _unreadable() from None
        if url.scheme not in _SCHEMES or not url.hostname or not url.username:
            raise _unreadable()
        self._host = url.hostname
        self._user = unquote(url.username)
        self._password = unquote(url.password or "") or os.environ.get("PGPASSWORD")
        self._database = unquote(url.path.strip("/")) or MAINTENANCE_DATABASE
        self._query = url.query

    def _dsn(self, database: str) -> str:
        login = quote(self._user, safe="")
        if self._password:
            login += f":{quote(self._password, safe='')}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return urlunsplit(
            ("postgresql", f"{login}@{host}:{self._port}", f"/{quote(database, safe='')}", self._query, "")
        )

    @asynccontextmanager
    async def _connected(self, database: str | None = None) -> AsyncIterator[_Connection]:
        try:
            session = await connect(self._dsn(database or self._database), timeout=_CONNECT_SECONDS)
        except (OSError, asyncpg.PostgresError, ValueError) as error:
            raise CommandError(self._refusal(error)) from None
        try:
            yield session
        finally:
            await session.close()

    def _refusal(self, error: Exception) -> str:
        """Why there is no session, and what to do."""
        place = f"The server of --postgres, {self._host} port {self._port},"
        match error:
            case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
                return f"{place} refuses the login; check user and password, and its pg_hba.conf."
            case asyncpg.InvalidCatalogNameError():
                return f"{place} has no database of the name in the DSN; name one that is there."
            case asyncpg.ReadOnlySQLTransactionError():
                return f"{place} takes no writes; name the primary."
            case asyncpg.PostgresError():
                return f"{place} refuses ({_code(error)}); its log says why."
            case _:
                return f"{place} cannot be reached; check the address, and that a server listens there."


def _told(made: list[str], client: str) -> str:
    databases = f"the databases {', '.join(made)}" if made else "no database, all were there"
    return (
        f"Made on the server: {databases}; in {REGISTRY_DATABASE} the service's tables and the API client"
        f" {client}. They stay there when the stack stops."
    )


def _is_set(name: str) -> bool:
    return name in os.environ or f"{name}_FILE" in os.environ


def _code(error: Exception) -> str:
    return f"SQLSTATE {error.sqlstate}" if isinstance(error, asyncpg.PostgresError) else type(error).__name__


def _unreadable() -> CommandError:
    return CommandError(
        "--postgres must look like postgresql://user@host:5432/postgres and name one host; the password"
        " belongs into it or into PGPASSWORD."
    )
