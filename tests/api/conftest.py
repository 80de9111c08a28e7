"""The API on a registry of the test's own; Temporal is away unless the test asks for it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests import registries
from tests.api import server
from tests.api.server import Server
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import make_settings, session


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Without limits of rates: all these tests come from one address."""
    return make_settings(postgres, registry_dsn, rate_limiting=False)


@pytest.fixture
def temporal_address() -> str:
    """Where the API looks for Temporal."""
    return NOBODY


_TABLES = (
    "adminapi.audit, adminapi.dbinstances, adminapi.databases, adminapi.jobstatuses,"
    " adminapi.applications, dbo.odsinstances,"
    " adminapi.educationorganizations, adminapi.idempotencykeys, adminapi.consolesessions,"
    " adminapi.signinlinks, adminapi.signinattempts, adminapi.backups, adminapi.leftdatabasenames,"
    " adminapi.servedschedules,"
    " adminapi.attemptcounts"
)


@pytest.fixture(scope="session")
async def api_registry(prepared_postgres: EmbeddedPostgres) -> str:
    """A registry for all these tests, one after the other: cheaper than one for each of so many."""
    return await registries.clone(prepared_postgres, "EdFi_Admin_api")


@pytest.fixture
async def registry_dsn(api_registry: str) -> str:
    """The registry, emptied; its OdsInstanceIds go on, so that no workflow id comes twice."""
    return await _emptied(api_registry)


@pytest.fixture(scope="session")
async def second_api_registry(prepared_postgres: EmbeddedPostgres) -> str:
    """The registry of a second tenant."""
    return await registries.clone(prepared_postgres, "EdFi_Admin_second_api")


@pytest.fixture
async def second_registry_dsn(second_api_registry: str) -> str:
    """The registry of a second tenant, emptied."""
    return await _emptied(second_api_registry)


async def _emptied(registry: str) -> str:
    async with session(registry) as connection:
        await connection.execute(f"TRUNCATE {_TABLES} CASCADE")
        await connection.execute(registries.TOKEN_HOLDER)
        await connection.execute("UPDATE adminapi.registration SET openuntil = NULL")
        await connection.execute("UPDATE adminapi.installation SET helduntil = NULL")
    return registry


@pytest.fixture(scope="session")
async def idle_settings(prepared_postgres: EmbeddedPostgres) -> Settings:
    """Settings of an API whose registry stays empty."""
    idle = await registries.clone(prepared_postgres, "EdFi_Admin_idle")
    return make_settings(prepared_postgres, idle, rate_limiting=False)


@pytest.fixture(scope="session")
async def contract(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[Server]:
    """One API in a process of its own, for tests that send bytes; each uses names that no other does."""
    registry = await registries.clone(prepared_postgres, "EdFi_Admin_contract")
    async with server.serving(make_settings(prepared_postgres, registry, rate_limiting=False)) as started:
        yield started


@pytest.fixture(scope="session")
async def idle_app(idle_settings: Settings) -> AsyncIterator[FastAPI]:
    """One API for all requests that are refused: they leave no traces."""
    async with running(idle_settings, NOBODY) as app:
        yield app


@pytest.fixture(scope="session")
async def idle_stranger(idle_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(idle_app) as client:
        yield client


@pytest.fixture(scope="session")
async def idle_api(idle_app: FastAPI, idle_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(idle_app, headers=bearer(idle_settings, lifetime=3600)) as client:
        yield client


_FILLED_ROWS = """
INSERT INTO dbo.odsinstances VALUES (1, 'b', 'Minimal', 's'), (2, 'B', 'Minimal', 's'), (3, 'a', NULL, 's');
INSERT INTO dbo.odsinstancecontexts
    VALUES (1, 2, 'a', '4'), (2, 1, U&'\\FFFF', '1'), (3, 2, 'B', '2'), (4, 1, U&'\\+010000', '3');
INSERT INTO dbo.odsinstancederivatives
    VALUES (1, 2, 'Snapshot', 's'), (2, 1, 'Snapshot', 's'), (3, 2, 'ReadReplica', 's')
"""


@pytest.fixture(scope="session")
async def filled_api(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose registry has some rows, for requests that only read or are refused."""
    registry = await registries.clone(prepared_postgres, "EdFi_Admin_filled")
    async with session(registry) as connection:
        await connection.execute(_FILLED_ROWS)
    settings = make_settings(prepared_postgres, registry, rate_limiting=False)
    headers = bearer(settings, lifetime=3600)
    async with running(settings, NOBODY) as app, client_of(app, headers=headers) as client:
        yield client


@pytest.fixture
def power() -> Iterator[ExitStack]:
    """What keeps the issuer running; closing it takes the issuer away."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def app(settings: Settings, temporal_address: str) -> AsyncIterator[FastAPI]:
    async with running(settings, temporal_address) as app:
        yield app


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def api(app: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token."""
    async with client_of(app, headers=bearer(settings)) as client:
        yield client


@pytest.fixture
async def api_with_temporal(settings: Settings, temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token, of an API that reaches Temporal."""
    async with (
        running(settings, temporal.service_client.config.target_host) as app,
        client_of(app, headers=bearer(settings)) as client,
    ):
        yield client


@pytest.fixture
async def serving(settings: Settings) -> AsyncIterator[Server]:
    """The API in a process of its own."""
    async with server.serving(settings) as started:
        yield started
