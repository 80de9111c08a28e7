"""The service's settings, and what is done to its registries; a failure is told to the person who asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from databases.errors import INSUFFICIENT_PRIVILEGE
from embedded.errors import CommandError
from registry.connection_strings.encryption import Keyring
from registry.connection_strings.key_rotation import Rotation, rotate
from registry.migrations import upgrade
from registry.migrations.conflicts import ConflictingRowsError
from registry.storage.engine import create_registry_engine
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


@dataclass(frozen=True)
class KeyRotations:
    """What became of each tenant's connection strings, and why some tenants could not be asked."""

    multi_tenant: bool
    rotations: Mapping[str, Rotation]
    faults: Sequence[str]


async def rotate_keys(tenant: str | None) -> KeyRotations:
    """Encrypt the connection strings of `tenant`, or of all, with the current key.

    Raises:
        CommandError: a variable is missing or has an unusable value, or there is no such tenant.
    """
    with _refusal_told():
        settings = load_settings()
    names = [name for name in settings.tenants if tenant is None or name.lower() == tenant.lower()]
    if not names:
        raise CommandError(f"There is no tenant {tenant}; there are {', '.join(settings.tenants)}.")
    rotations: dict[str, Rotation] = {}
    faults = []
    for name in names:
        try:
            rotations[name] = await _rotate(settings.tenants[name])
        except CommandError as error:
            faults.append(_of_tenant(settings, name, error))
    return KeyRotations(settings.multi_tenant, rotations, faults)


async def _rotate(settings: Settings) -> Rotation:
    engine = create_registry_engine(settings.admin_dsn.get_secret_value(), pool_size=1)
    try:
        return await rotate(engine, Keyring(settings.encryption_keys))
    except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
        raise CommandError(
            f"The connection strings cannot be re-encrypted, or not all of them ({type(error).__name__});"
            " check ODS_ADMIN_DSN, or the admin_dsn of the tenant, and run the command again."
        ) from None
    finally:
        await engine.dispose()


def _of_tenant(settings: AnySettings, name: str, error: CommandError) -> str:
    return f"Tenant {name}: {error}" if settings.multi_tenant else str(error)


async def _fault_of_migration(settings: AnySettings, tenant: str) -> str | None:
    try:
        await migrate(settings.tenants[tenant].admin_dsn.get_secret_value())
    except CommandError as error:
        return _of_tenant(settings, tenant, error)
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
