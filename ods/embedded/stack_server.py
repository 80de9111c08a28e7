"""The PostgreSQL server of a stack: which one was chosen, and the one that the stack runs itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from ods.embedded.data_folder import DataFolder, PostgresEntry, Secrets
from ods.embedded.errors import CommandError
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.postgres_binaries import PostgresVersion
from ods.embedded.registry import migrate
from ods.embedded.seeding import (
    MINIMAL_SCRIPTS,
    REGISTRY_DATABASE,
    RESTORE_ROLE,
    SAMPLE_SCRIPTS,
    SERVICE_ROLE,
    ensure_registry_database,
    ensure_restore_roles,
    ensure_service_role,
    ensure_template,
)
from ods.embedded.supervisor import Supervisor
from ods.registry.connection_strings.connection_string import ConnectionString
from ods.settings.settings import Settings

POSTGRES_VARIABLE = "ODS_POSTGRES"
"""The variable with the DSN of an existing server: `ps` would show the password in an argument."""
MAINTENANCE_DATABASE = "postgres"
_HOST = "127.0.0.1"
_RECOVERY_SECONDS = 3600
"""How long PostgreSQL may take to answer. After a crash it opens every file first, which takes minutes for
hundreds of databases on a slow disk; if it were stopped meanwhile, it would begin again."""


@dataclass(frozen=True)
class PostgresChoice:
    """Which PostgreSQL a stack works on.

    Attributes:
        version: of the server that the stack runs itself; None for the newest.
        dsn: an existing server; None for one that the stack runs itself.
    """

    version: PostgresVersion | None = None
    dsn: str | None = field(default=None, repr=False)

    def require_one(self, port: int | None) -> None:
        """Check that no option contradicts another.

        Raises:
            CommandError: an existing server was chosen, and options of one that the stack runs itself.
        """
        if self.dsn is not None and (self.version is not None or port is not None):
            raise CommandError(
                "--postgres names an existing server: leave out --postgres-version and --postgres-port,"
                " which are for a server that the stack runs itself."
            )


OWN_POSTGRES = PostgresChoice()
"""What a stack works on unless the operator chooses."""


class StackServer(Protocol):
    """The PostgreSQL server that holds the databases of a stack.

    Attributes:
        spares: the spare databases to keep ready for each template, unless the operator says otherwise.
        starting: what `start` does, in words for the operator.
    """

    spares: str
    starting: str

    def environment(self) -> Mapping[str, str]:
        """The variables by which API and worker reach the server and its registry."""

    async def start(self, supervisor: Supervisor) -> None:
        """Make sure that the server answers, and may be used.

        Raises:
            CommandError: it does not, or may not be.
        """

    async def prepare(self, settings: Settings) -> None:
        """Make the registry, its tables and the templates, where they are missing.

        Raises:
            CommandError: they cannot be made.
        """

    def entry(self, pids: Mapping[str, int]) -> PostgresEntry:
        """How operator and commands reach the server; `pids` are those of the stack's children."""


class OwnServer:
    """A server that the stack runs itself, with its data in the stack's folder."""

    spares = "2"
    """Unlike in production, their disk space does not matter: the templates are small."""
    starting = "Starting PostgreSQL ..."

    def __init__(self, folder: DataFolder, secrets: Secrets, version: PostgresVersion | None) -> None:
        if folder.existing_server() is not None:
            raise CommandError(
                f"The stack in {folder.path} works on an existing server: name it with --postgres,"
                " or choose another folder with --data-dir."
            )
        self._secrets = secrets
        self._log = folder.logs / "postgres.log"
        self._postgres = EmbeddedPostgres(
            folder.postgres,
            secrets.postgres_port,
            secrets.superuser_password,
            log=self._log,
            version=version or PostgresVersion.V18,
            used_before=folder.temporal.exists(),  # which is made when PostgreSQL serves
        )

    def environment(self) -> Mapping[str, str]:
        """The variables by which API and worker reach the server and its registry."""
        secrets = self._secrets
        ods_api = connection_string(_HOST, secrets.postgres_port, SERVICE_ROLE, secrets.service_password)
        return {
            "ODS_ADMIN_DSN": self._service_dsn(REGISTRY_DATABASE),
            "ODS_MASTER_DSN": self._service_dsn(MAINTENANCE_DATABASE),
            "ODS_RESTORE_DSN": self._dsn(RESTORE_ROLE, secrets.restore_password, MAINTENANCE_DATABASE),
            "ODS_INSTANCE_CONNECTION_STRING": str(ods_api),
            "ODS_ENCRYPTION_KEY": secrets.encryption_key,
            "PGSSLMODE": "disable",  # else each connection tries TLS first
        }

    async def start(self, supervisor: Supervisor) -> None:
        """Run the server until the supervisor's block ends.

        Raises:
            CommandError: it cannot be started, or another version has made the data.
        """
        await self._postgres.initialise()
        await supervisor.start(self._postgres.command())
        await supervisor.wait_until(self._postgres.answers, "answer from PostgreSQL", _RECOVERY_SECONDS)

    async def prepare(self, settings: Settings) -> None:
        """Make the service's roles, the registry, its tables and the templates, where they are missing.

        Raises:
            CommandError: they cannot be made.
        """
        superuser_dsn, service_dsn = self._postgres.dsn(), self._service_dsn(MAINTENANCE_DATABASE)
        try:
            await ensure_service_role(superuser_dsn, self._secrets.service_password)
            await ensure_restore_roles(superuser_dsn, self._secrets.restore_password)
            await ensure_registry_database(superuser_dsn)
            await migrate(self._service_dsn(REGISTRY_DATABASE))
            await ensure_template(service_dsn, settings.minimal_template, MINIMAL_SCRIPTS)
            await ensure_template(service_dsn, settings.sample_template, SAMPLE_SCRIPTS)
        except (OSError, asyncpg.PostgresError):
            raise CommandError(f"The databases cannot be prepared; {self._log} says why.") from None

    def entry(self, pids: Mapping[str, int]) -> PostgresEntry:
        """How operator and commands reach the server, as its superuser."""
        return {
            "admin_dsn": self._postgres.dsn(REGISTRY_DATABASE),
            "master_dsn": self._postgres.dsn(MAINTENANCE_DATABASE),
            "pid": pids["postgres"],
        }

    def _service_dsn(self, database: str) -> str:
        return self._dsn(SERVICE_ROLE, self._secrets.service_password, database)

    def _dsn(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{password}@{_HOST}:{self._secrets.postgres_port}/{database}"


def connection_string(host: str, port: int, user: str, password: str | None) -> ConnectionString:
    """How an ODS/API on this machine would reach the ODS databases."""
    login = (("username", user), ("password", password))
    given = tuple((key, value) for key, value in login if value)
    return ConnectionString((("host", host), ("port", str(port)), *given, ("database", "EdFi_Ods")))
