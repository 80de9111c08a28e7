"""What the tests of SQL on a real server share."""

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.databases.ownership import KnownOwner, Owner
from ods.databases.provisioning import CloneRequest
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import CloneStrategy
from tests import registries
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.owners import requesting
from tests.secret_search import as_secret
from tests.servers import INSTALLATION, MINIMAL_TEMPLATE, NUMBERS, product_server, service_dsn, session

READER_PASSWORD = as_secret("reader-password-for-tests")


@pytest.fixture(scope="session")
async def shared_registry(prepared_postgres: EmbeddedPostgres) -> str:
    """A registry for one test after the other: making one for each would take longer than the tests."""
    return await registries.clone(prepared_postgres)


@pytest.fixture
async def registry_dsn(shared_registry: str) -> AsyncIterator[str]:
    """The shared registry; what the test leaves there is removed."""
    yield shared_registry
    async with session(shared_registry) as connection:
        await connection.execute(
            "DELETE FROM dbo.apiclientodsinstances; DELETE FROM dbo.odsinstancecontexts;"
            " DELETE FROM dbo.odsinstancederivatives; DELETE FROM dbo.odsinstances;"
            " DELETE FROM adminapi.jobstatuses; DELETE FROM adminapi.dbinstances;"
            " DELETE FROM adminapi.databases;"
            " DELETE FROM adminapi.educationorganizations; DELETE FROM adminapi.snapshots;"
            " DELETE FROM adminapi.consolesessions; DELETE FROM adminapi.signinlinks;"
            " DELETE FROM adminapi.signinattempts; DELETE FROM adminapi.backups;"
            " DELETE FROM adminapi.leftdatabasenames; DELETE FROM adminapi.servedschedules;"
            " DELETE FROM adminapi.attemptcounts;"
            " DELETE FROM adminapi.databasesizes; DELETE FROM adminapi.totalsizes"
        )


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on the test's registry, past the product."""
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def server(postgres: EmbeddedPostgres) -> AsyncIterator[Server]:
    """The server, as the product reaches it."""
    server = product_server(postgres)
    yield server
    await server.close()


@pytest.fixture
def owner() -> KnownOwner:
    """An instance of the test's own."""
    number = next(NUMBERS)
    job, mark = f"CreateInstanceJob-{number}-1", str(uuid.uuid4())
    its = Owner("default", number, job, mark, INSTALLATION, 1, database_id=str(uuid.uuid4()))
    return requesting(its)


@pytest.fixture
async def reader(admin: asyncpg.Connection, postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """Address of the server for a role that is neither ours nor a superuser's; to be given a database."""
    await admin.execute(f"CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'")
    yield f"postgresql://reader:{READER_PASSWORD}@127.0.0.1:{postgres.port}"
    await admin.execute("DROP ROLE reader")


@pytest.fixture
async def database(admin: asyncpg.Connection, owner: Owner) -> AsyncIterator[str]:
    """The name of the instance's database; whatever has it, or the private name, in the end is removed."""
    name = f"EdFi_Ods_Test_{owner.ods_instance_id}_Minimal"
    yield name
    for left in (name, f"{name}_aside", owner.staging_name):
        await admin.execute(f'DROP DATABASE IF EXISTS "{left}" WITH (FORCE)')


@pytest.fixture
def wanted(owner: KnownOwner, database: str) -> CloneRequest:
    """What the product is asked to make."""
    return CloneRequest(owner, MINIMAL_TEMPLATE, database, CloneStrategy.AUTO)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"EdFi_Admin_bare_{next(NUMBERS)}"
    maintenance = service_dsn(postgres, "postgres")
    async with session(maintenance) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')
    yield service_dsn(postgres, name)
    async with session(maintenance) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def bare(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on the database that is migrated."""
    async with session(dsn) as connection:
        yield connection


@pytest.fixture
async def ed_fi_admin(dsn: str, bare: asyncpg.Connection) -> AsyncIterator[EdFiAdmin]:
    """A registry in which neither this service nor an Admin API is installed yet."""
    engine = create_registry_engine(dsn)
    yield EdFiAdmin(dsn, engine, bare)
    await engine.dispose()
