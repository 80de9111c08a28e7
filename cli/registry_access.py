"""Changing the registry past the API, for which the first client of an installation has no token yet."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from databases.errors import INSUFFICIENT_PRIVILEGE
from embedded.data_folder import DataFolder
from embedded.errors import CommandError
from embedded.registry import settings_of_environment
from registry.storage.engine import create_registry_engine
from settings import DEFAULT_TENANT, AnySettings

_SETTINGS = ("ODS_ADMIN_DSN", "ODS_TENANTS")
_UNDEFINED = {"42P01", "42703"}


@dataclass(frozen=True)
class RegistryAccess:
    """A registry that commands work on.

    Args:
        dsn: how to connect to it.
        always_open: whether its API admits new clients whatever the registry says.
        master_dsn: how to connect to the server of the ODS databases.
        tenant: whose registry it is.
        tenants: all tenants of the service.
    """

    dsn: str
    always_open: bool
    master_dsn: str
    tenant: str = DEFAULT_TENANT
    tenants: tuple[str, ...] = (DEFAULT_TENANT,)

    @classmethod
    def find(cls, data_dir: Path) -> "RegistryAccess":
        """The registry that the environment's settings name, or else that of the stack in `data_dir`.

        Raises:
            CommandError: there is neither, or a setting cannot be used, or does not tell which tenant.
        """
        if any(name in os.environ for name in _SETTINGS):
            settings = settings_of_environment()
            tenant = _tenant(settings)
            own = settings.tenants[tenant]
            return cls(
                own.admin_dsn.get_secret_value(),
                own.registration,
                own.master_dsn.get_secret_value(),
                tenant,
                tuple(settings.tenants),
            )
        if stack := DataFolder(data_dir).running_stack():
            postgres = stack["postgres"]
            return cls(postgres["admin_dsn"], always_open=True, master_dsn=postgres["master_dsn"])
        raise CommandError(
            f"No stack serves in {data_dir}; `ods up` starts one. For another installation, set its"
            " settings, such as ODS_ADMIN_DSN, as for `ods migrate`."
        )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncEngine]:
        """The registry.

        Raises:
            CommandError: it cannot be used.
        """
        engine = create_registry_engine(self.dsn, pool_size=1)
        try:
            with _faults_told():
                yield engine
        finally:
            await engine.dispose()


def operator() -> str:
    """Which user of which host calls the command, for the audit trail."""
    user = f"user {os.getuid()}"
    with suppress(KeyError, OSError):  # a container's user need not have a name
        user = getuser()
    return f"{user}@{socket.gethostname()}"


def _tenant(settings: AnySettings) -> str:
    if not settings.multi_tenant:
        return DEFAULT_TENANT
    wanted = os.environ.get("ODS_TENANT", "")
    for name in settings.tenants:
        if name.lower() == wanted.lower():
            return name
    raise CommandError(
        f"Say which tenant, with `ods --tenant NAME …` or ODS_TENANT: {', '.join(settings.tenants)}."
    )


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        raise CommandError(_told(error)) from None


def _told(error: Exception) -> str:
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if state in _UNDEFINED:
        return "The registry database is not up to date; run `ods migrate` first."
    if state == INSUFFICIENT_PRIVILEGE:
        return "The role of ODS_ADMIN_DSN may not do this; use that of the service."
    return (
        f"The registry database cannot be used ({type(error).__name__}); check ODS_ADMIN_DSN, or the"
        " admin_dsn of the tenant, and look at the log of its server."
    )
