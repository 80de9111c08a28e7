"""Which registry a command works on without the API, for which a new installation has no client yet."""

import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.cli.options import require_no_folder, require_no_other_tenant
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import (
    DEFAULT_TENANT,
    AnySettings,
    InvalidSettingsError,
    Settings,
    load_settings,
    other_registries,
    variables_of,
)

_SETTINGS = variables_of("admin_dsn") | variables_of("tenants")
_UNDEFINED = {"42P01", "42703"}


@dataclass(frozen=True)
class RegistryAccess:
    """A registry that commands work on.

    Attributes:
        dsn: the DSN of the registry.
        always_open: whether its API always accepts new clients (`ODS_REGISTRATION`).
        master_dsn: the DSN of the server of the ODS databases.
        tenant: the tenant of the registry.
        siblings: the DSNs of the registries of the other tenants of the service, by their names.
        backup_url: where the tenant's backups are; None if none are made.
        shares_clients: whether an Admin API uses the same clients.
    """

    dsn: str
    always_open: bool
    master_dsn: str
    tenant: str = DEFAULT_TENANT
    siblings: Mapping[str, str] = field(default_factory=dict)
    backup_url: str | None = None
    shares_clients: bool = False

    @classmethod
    def find(cls, data_dir: Path) -> "RegistryAccess":
        """The registry that the environment's settings name, or else that of the stack in `data_dir`.

        Raises:
            CommandError: there is neither, or a folder is named beside the settings; a setting cannot be
                used, none says which tenant, or there is one and another is named.
        """
        if has_settings():
            given = sorted(_SETTINGS & os.environ.keys())
            require_no_folder(data_dir, f"{' and '.join(given)} another installation")
            settings = settings_of_environment()
            tenant = tenant_of_environment(settings)
            own = settings.tenants[tenant]
            return cls(
                own.admin_dsn.get_secret_value(),
                own.registration,
                own.master_dsn.get_secret_value(),
                tenant,
                other_registries(settings, tenant),
                own.backup_url,
                own.shares_clients,
            )
        folder = DataFolder(data_dir)
        if stack := folder.running_stack():
            require_no_other_tenant(f"The stack in {data_dir}")
            postgres = stack["postgres"]
            return cls(
                postgres["admin_dsn"],
                always_open=True,
                master_dsn=postgres["master_dsn"],
                backup_url=stack["backups"]["url"],
            )
        raise CommandError(
            f"{folder.why_no_stack()} For another installation, set its settings, such as ODS_ADMIN_DSN, as"
            " for `ods migrate`."
        )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncEngine]:
        """An engine of the registry; errors of the body become `CommandError`s.

        Raises:
            CommandError: the registry cannot be used.
        """
        engine = create_registry_engine(self.dsn, pool_size=1)
        try:
            with _translate_errors():
                yield engine
        finally:
            await engine.dispose()


def has_settings() -> bool:
    """Whether the environment has the settings of an installation, or names files that hold them."""
    return not _SETTINGS.isdisjoint(os.environ)


def settings_of_environment() -> AnySettings:
    """The settings of the environment, of one tenant or of several.

    Raises:
        CommandError: a variable is missing or has an unusable value.
    """
    try:
        return load_settings()
    except InvalidSettingsError as error:
        raise CommandError(
            f"{error}\nThe command needs the settings of the API and the worker in its environment;"
            " docs/settings.md has every one."
        ) from None


def chosen_tenants(tenant: str | None) -> Mapping[str, Settings]:
    """The settings of `tenant`, or of all tenants, by their names.

    Raises:
        CommandError: a variable is missing or has an unusable value, or there is no such tenant.
    """
    settings = settings_of_environment()
    chosen = {
        name: own
        for name, own in settings.tenants.items()
        if tenant is None or name.lower() == tenant.lower()
    }
    if not chosen:
        raise CommandError(f"There is no tenant {tenant}; there are {', '.join(settings.tenants)}.")
    return chosen


def operator() -> str:
    """The user and host that run the command, for the audit trail."""
    user = f"user {os.getuid()}"
    with suppress(KeyError, OSError):  # a container's user need not have a name
        user = getuser()
    return f"{user}@{socket.gethostname()}"


def tenant_of_environment(settings: AnySettings) -> str:
    """The tenant that `--tenant` or ODS_TENANT names, or the only one.

    Raises:
        CommandError: none is named, or there is one and another is named.
    """
    if not settings.multi_tenant:
        require_no_other_tenant("The installation of ODS_ADMIN_DSN")
        return DEFAULT_TENANT
    wanted = os.environ.get("ODS_TENANT", "")
    for name in settings.tenants:
        if name.lower() == wanted.lower():
            return name
    raise CommandError(
        f"Say which tenant, with `ods --tenant NAME …` or ODS_TENANT: {', '.join(settings.tenants)}."
    )


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        raise CommandError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, MissingRightsError):
        return str(error)
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if state in _UNDEFINED:
        return "The registry database is not up to date; run `ods migrate` first."
    return (
        f"The registry database cannot be used ({type(error).__name__}); check ODS_ADMIN_DSN, or the"
        " admin_dsn of the tenant, and look at the log of its server."
    )
