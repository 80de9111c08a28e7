"""Refreshes of education organizations, carried out by real workers on real databases."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from temporalio.client import Client

from activities.tenant import Tenant
from cli.postgres import EmbeddedPostgres
from instances.refreshes import RefreshPolicy, Scope
from settings import Settings
from tests.ods import ROWS, add_ods_instance, connection_string, ods_database, organizations
from tests.servers import session
from workflows.start_refresh import RefreshStarter


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
def refresh_starter(temporal: Client, settings: Settings) -> RefreshStarter:
    return RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings))


async def finished(rows: asyncpg.Connection, job_id: str) -> asyncpg.Record:
    """The row of a job that has ended."""
    async with asyncio.timeout(30):
        while True:
            row = await rows.fetchrow("SELECT * FROM adminapi.jobstatuses WHERE jobid = $1", job_id)
            assert row is not None
            if row["finishedat"] is not None:
                return row
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("workers")
async def test_organizations_are_in_the_registry_when_a_refresh_was_requested(
    tenant: Tenant, refresh_starter: RefreshStarter, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres) as database:
        added = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        job_id = await tenant.refreshes.request(Scope(None))
        await refresh_starter.start(Scope(None))
        job = await finished(rows, job_id)
        assert (job["status"], job["errormessage"]) == ("Completed", None)
        assert await organizations(rows, added) == ROWS
