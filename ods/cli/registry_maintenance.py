"""What commands do to the registries of all tenants: migrations, and the rotation of the encryption key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from ods.cli.output import say
from ods.cli.registry_access import chosen_tenants, settings_of_environment
from ods.embedded.errors import CommandError
from ods.embedded.registry import migrate
from ods.registry.connection_strings.encryption import Keyring
from ods.registry.connection_strings.key_rotation import Rotation, rotate
from ods.registry.rights.script import grant
from ods.registry.storage.connecting import connect
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import AnySettings, Settings

_CONNECT_TIMEOUT = 10
"""Seconds."""


async def migrate_all(grant_to: str | None) -> None:
    """Bring every tenant's registry database up to date; one that cannot be does not hold up the others.

    Args:
        grant_to: the service's role, which is given what it needs there; None: it owns the tables.

    Raises:
        CommandError: a variable is missing or has an unusable value, or at least one database is as it was.
    """
    settings = settings_of_environment()
    faults = [
        fault for name in settings.tenants if (fault := await _fault_of_migration(settings, name, grant_to))
    ]
    if faults:
        raise CommandError("\n".join(faults))


@dataclass(frozen=True)
class KeyRotations:
    """The result of a key rotation.

    Attributes:
        multi_tenant: whether the service has several tenants.
        rotations: how many connection strings were encrypted anew, by tenant.
        faults: why the registries of other tenants could not be used.
    """

    multi_tenant: bool
    rotations: Mapping[str, Rotation]
    faults: Sequence[str]


async def rotate_keys(tenant: str | None) -> KeyRotations:
    """Encrypt the connection strings of `tenant`, or of all, with the current key.

    Raises:
        CommandError: a variable is missing or has an unusable value, or there is no such tenant.
    """
    settings = settings_of_environment()
    rotations: dict[str, Rotation] = {}
    faults = []
    for name, own in chosen_tenants(tenant).items():
        try:
            rotations[name] = await _rotate(own)
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


async def _fault_of_migration(settings: AnySettings, tenant: str, grant_to: str | None) -> str | None:
    dsn = settings.tenants[tenant].admin_dsn.get_secret_value()
    try:
        await migrate(dsn)
        if grant_to is not None:
            await _grant(dsn, grant_to)
    except CommandError as error:
        return _of_tenant(settings, tenant, error)
    return None


async def _grant(dsn: str, role: str) -> None:
    try:
        session = await connect(dsn, timeout=_CONNECT_TIMEOUT)
        try:
            refused = await grant(session, role)
        finally:
            await session.close()
    except asyncpg.UndefinedObjectError:
        raise CommandError(f"The registry is up to date, but the role {role} does not exist.") from None
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandError(
            f"The registry is up to date, but {role} was not given all rights ({type(error).__name__}):"
            " run the command again."
        ) from None
    for statement in refused:
        say(f"Not by this role; have the owner of the table run: {statement}")


def _of_tenant(settings: AnySettings, name: str, error: CommandError) -> str:
    return f"Tenant {name}: {error}" if settings.multi_tenant else str(error)
