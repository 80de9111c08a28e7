"""The connection string that the ODS/API gets: whether an instance's database can be opened with it."""

from collections.abc import Sequence

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from ods.databases.education_organizations.reading import Address, UnreadableError, reading
from ods.doctor.findings import Finding, fault, ok, warning
from ods.model.operations import InstanceStatus
from ods.registry.connection_strings.connection_string import ConnectionString
from ods.registry.instances.queries import InstanceQueries
from ods.registry.rights.needs import quoted
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Address as DsnAddress
from ods.settings.settings import Settings

_VARIABLE = "ODS_INSTANCE_CONNECTION_STRING"


async def examine_login(subject: str, settings: Settings) -> Sequence[Finding]:
    """Log in to the database of an instance, if there is one, as the ODS/API does."""
    text = settings.instance_connection_string.get_secret_value()
    string = ConnectionString.parse(text)  # the settings were refused otherwise
    user, password = string.login
    place = ", ".join(map(str, string.endpoints))
    if not user:
        words = "It names no user: the ODS/API would log in by other means"
        return [warning(subject, words, f"{_VARIABLE}='…;username=…;password=…'")]
    try:
        instance = await _database_of_an_instance(settings)
    except (SQLAlchemyError, asyncpg.PostgresError, OSError):
        return [warning(subject, "Not examined: the registry cannot be asked for an instance")]
    database = instance or DsnAddress.of(settings.master_dsn).database
    place = f"the database {database} at {place}, as {user}"
    remedy = f"ALTER ROLE {quoted(user)} LOGIN PASSWORD '…'; or correct {_VARIABLE}"
    try:
        async with reading(Address(string.endpoints, database, user, password, string.ssl_mode)):
            return [ok(subject, f"It opens {place}")]
    except UnreadableError as error:
        words = f"It does not open {place}: {error}"
    if instance is None:  # the ODS/API need not be allowed into another database
        return [warning(subject, f"{words}; there is no instance yet to try", remedy)]
    return [fault(subject, words, remedy)]


async def _database_of_an_instance(settings: Settings) -> str | None:
    engine = create_registry_engine(settings.admin_dsn.get_secret_value(), pool_size=1)
    try:
        for row in await InstanceQueries(engine).live_instances():
            if row.status == InstanceStatus.COMPLETED:
                return row.database_name
    finally:
        await engine.dispose()
    return None
