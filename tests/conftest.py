"""Real servers for the whole run: PostgreSQL with templates, and the Temporal development server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from embedded import seeding
from embedded.ports import free_port
from embedded.postgres import EmbeddedPostgres
from registry.instances.job_store import JobStore
from registry.instances.queries import InstanceQueries
from registry.instances.store import InstanceStore
from registry.migrations import upgrade
from settings import Settings
from temporal.job_starter import JobStarter
from temporal.namespace import register_search_attributes
from tenants.tenant import Tenant, open_tenants
from tests.servers import (
    MINIMAL_TEMPLATE,
    NUMBERS,
    SAMPLE_TEMPLATE,
    SERVICE_PASSWORD,
    TOKEN_HOLDER,
    development_server,
    make_settings,
    service_dsn,
    session,
)
from worker import WORKERS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the histories of workflow tests anew")


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """PostgreSQL 18 with the service role and both templates."""
    folder = tmp_path_factory.mktemp("postgres")
    server = EmbeddedPostgres(
        folder / "data", free_port(), "superuser-password-for-tests", {"fsync": "off", "autovacuum": "off"}
    )
    async with server:
        await seeding.ensure_service_role(server.dsn(), SERVICE_PASSWORD)
        service = service_dsn(server, "postgres")
        await seeding.ensure_template(service, MINIMAL_TEMPLATE, seeding.MINIMAL_SCRIPTS)
        await seeding.ensure_template(service, SAMPLE_TEMPLATE, seeding.SAMPLE_SCRIPTS)
        yield server


@pytest.fixture
async def admin(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's session, to look and to interfere."""
    connection = await asyncpg.connect(postgres.dsn())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def migrated_registry(postgres: EmbeddedPostgres) -> str:
    """A registry database with tables and one client, to be cloned for each test."""
    name = "EdFi_Admin_migrated"
    async with session(service_dsn(postgres, "postgres")) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"')
    await upgrade(service_dsn(postgres, name))
    async with session(service_dsn(postgres, name)) as connection:
        await connection.execute(TOKEN_HOLDER)
    return name


@pytest.fixture
async def registry_dsn(postgres: EmbeddedPostgres, migrated_registry: str) -> AsyncIterator[str]:
    """A registry of the test's own; its OdsInstanceIds and its spares are no other test's."""
    number = next(NUMBERS)
    name = f"EdFi_Admin_{number}"
    maintenance = service_dsn(postgres, "postgres")
    async with session(maintenance) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_registry}"')
    dsn = service_dsn(postgres, name)
    async with session(dsn) as connection:
        await connection.execute(
            f"ALTER SEQUENCE dbo.odsinstances_odsinstanceid_seq RESTART WITH {number * 100_000}"
        )
        await connection.execute("UPDATE adminapi.installation SET id = gen_random_uuid()")
    yield dsn
    async with session(maintenance) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Settings as an operator would give them, with task queues of the test's own and little patience."""
    return make_settings(postgres, registry_dsn)


@pytest.fixture
async def tenant(settings: Settings) -> AsyncIterator[Tenant]:
    """The only tenant."""
    async with open_tenants(settings) as (tenant,):
        yield tenant


@pytest.fixture
def engine(tenant: Tenant) -> AsyncEngine:
    """A pool of connections to the test's registry."""
    return tenant.engine


@pytest.fixture
def instances(tenant: Tenant) -> InstanceStore:
    """What clients request of the test's registry."""
    return tenant.instances


@pytest.fixture
def job_store(tenant: Tenant) -> JobStore:
    """The jobs of the test's registry, as workers see them."""
    return tenant.jobs


@pytest.fixture
def queries(tenant: Tenant) -> InstanceQueries:
    """What the test's registry shows."""
    return tenant.queries


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    """A client of a real Temporal development server."""
    async with development_server() as client:
        await register_search_attributes(client)
        yield client


@pytest.fixture
async def own_temporal() -> AsyncIterator[Client]:
    """Unlike the shared one, this server has no schedule, and no sweep that another test left behind."""
    async with development_server() as client:
        await register_search_attributes(client)
        yield client


@pytest.fixture
def starter(temporal: Client, settings: Settings) -> JobStarter:
    """Starts the test's jobs."""
    return JobStarter(temporal, settings.registry_queue)


@pytest.fixture
async def workers(temporal: Client, tenant: Tenant) -> AsyncIterator[None]:
    """All workers, in this process."""
    async with AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, tenant))
        yield


@pytest.fixture
def name() -> str:
    """A name for an instance that no other test uses."""
    return f"Test {next(NUMBERS)}"
