"""The service's settings and its registry's migrations; what fails is told to the person at the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cli.errors import CommandError
from databases.errors import INSUFFICIENT_PRIVILEGE
from instances.migrations import upgrade
from instances.migrations.conflicts import ConflictingRowsError
from settings import AnySettings, InvalidSettingsError, Settings, load_settings


def settings_of_stack() -> Settings:
    """The settings of the environment, for the only tenant of a stack.

    Raises:
        CommandError: a variable is missing or has an unusable value.
    """
    with _refusal_told():
        return Settings.load()


def settings_of_environment() -> AnySettings:
    """The settings of the environment, of one tenant or of several.

    Raises:
        CommandError: a variable is missing or has an unusable value.
    """
    with _refusal_told():
        return load_settings()


async def migrate_all() -> None:
    """Bring every tenant's registry database up to date; one that cannot be does not hold up the others.

    Raises:
        CommandError: a variable is missing or has an unusable value, or at least one database is as it was.
    """
    settings = settings_of_environment()
    faults = [fault for name in settings.tenants if (fault := await _fault_of_migration(settings, name))]
    if faults:
        raise CommandError("\n".join(faults))


async def _fault_of_migration(settings: AnySettings, tenant: str) -> str | None:
    try:
        await migrate(settings.tenants[tenant].admin_dsn.get_secret_value())
    except CommandError as error:
        return f"Tenant {tenant}: {error}" if settings.multi_tenant else str(error)
    return None


async def migrate(dsn: str) -> None:
    """Bring the registry database `dsn` up to date.

    Raises:
        CommandError: it cannot be reached, or rows in it are in the way.
    """
    try:
        await upgrade(dsn)
    except ConflictingRowsError as error:
        raise CommandError(str(error)) from None
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
            raise CommandError(
                "The role of ODS_ADMIN_DSN may not change the tables that are there;"
                " docs/production.md has the statements that hand them over."
            ) from None
        raise CommandError(
            f"The registry database cannot be migrated ({type(error).__name__});"
            " check ODS_ADMIN_DSN, or the admin_dsn of the tenant, and look at the log of its server."
        ) from None


@contextmanager
def _refusal_told() -> Iterator[None]:
    try:
        yield
    except InvalidSettingsError as error:
        raise CommandError(str(error)) from None
