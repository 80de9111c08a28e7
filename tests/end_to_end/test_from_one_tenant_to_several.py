"""The only tenant becomes one of several whose databases are on one server, and the only one again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.databases.ownership import Owner
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.status import Template
from ods.settings.settings import DEFAULT_TENANT, AnySettings, MultiTenantSettings, Settings
from ods.tenants.tenant import open_tenants
from tests import registries
from tests.api.service import bearer, served
from tests.servers import (
    MINIMAL_TEMPLATE,
    make_settings,
    make_tenant_settings,
    seeded_postgres,
    service_dsn,
    session,
)

pytestmark = pytest.mark.long

FIRST, SECOND = "districtA", "districtB"
_COMMENTS = """
SELECT datname, description FROM pg_database
JOIN pg_shdescription ON objoid = oid AND classoid = 'pg_database'::regclass
"""


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server that no other installation uses, unlike that of the other tests."""
    async with seeded_postgres() as server:
        await registries.prepare(server)
        yield server


@pytest.fixture
async def one(server: EmbeddedPostgres) -> Settings:
    """Those of the only tenant."""
    return await settings_of(server, "EdFi_Admin")


@pytest.fixture
async def several(server: EmbeddedPostgres, one: Settings) -> MultiTenantSettings:
    """The same registry as that of a tenant beside another, both with the same server."""
    return make_tenant_settings({FIRST: one, SECOND: await settings_of(server, "EdFi_Admin_B")})


async def settings_of(server: EmbeddedPostgres, registry: str) -> Settings:
    return make_settings(
        server,
        await registries.clone(server, registry),
        master_dsn=service_dsn(server, "postgres"),
        rate_limiting=False,
        shared_server=False,
        spares=1,
        sample_template=MINIMAL_TEMPLATE,  # there is no other one
    )


@dataclass(frozen=True)
class TenantClient:
    """What a client of a tenant asks for."""

    client: httpx.AsyncClient
    headers: dict[str, str] = field(repr=False)

    async def ask(self, method: str, path: str, **content: Any) -> Any:
        answer = await self.client.request(method, path, headers=self.headers, **content)
        assert answer.status_code in {200, 202}, answer.text
        return answer.json()

    async def done(self, method: str, path: str, **content: Any) -> int:
        """The id of the instance, when the job that is requested has done its work."""
        accepted = await self.ask(method, path, **content)
        await self.follow(accepted["jobId"])
        return int(accepted["id"])

    async def follow(self, job: str) -> None:
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            found.update(await self.ask("GET", f"/v2/jobs/{job}"))
            return found["status"] in {"Completed", "Error"}

        await wait_until(has_ended, 30)
        assert found["status"] == "Completed", found

    async def create(self, name: str) -> int:
        body = {"name": name, "databaseTemplate": "Minimal"}
        return await self.done("POST", "/v2/dbInstances", json=body)

    async def drift(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.ask("GET", "/v2/drift")
        return found


@asynccontextmanager
async def clients(settings: AnySettings, temporal: Client) -> AsyncIterator[list[TenantClient]]:
    """A client of each tenant."""
    async with served(settings, temporal) as client:
        yield [
            TenantClient(client, {"tenant": name, **bearer(settings, 600, name)}) for name in settings.tenants
        ]
        health = (await client.get("/health")).json()
        assert {one["status"] for one in health["results"]} == {"Healthy"}, health


async def tenants_by_database(admin: asyncpg.Connection) -> dict[str, str]:
    """What the comments of the instances' databases call the tenant."""
    read = {row["datname"]: Owner.read(row["description"]) for row in await admin.fetch(_COMMENTS)}
    return {name: owner.tenant for name, owner in read.items() if owner is not None}


async def test_jobs_go_on_when_the_only_tenant_becomes_one_of_several_and_the_only_one_again(
    one: Settings, several: MultiTenantSettings, server: EmbeddedPostgres, own_temporal: Client
) -> None:
    async with session(server.dsn()) as admin:
        async with clients(one, own_temporal) as (first,):
            stays, comes_back, goes = [await first.create(name) for name in ("Stays", "Comes back", "Goes")]
            await first.done("DELETE", f"/v2/dbInstances/{comes_back}")
            await first.done("DELETE", f"/v2/dbInstances/{goes}")
        # While no worker runs, a job is left that has not begun.
        async with open_tenants(one) as (tenant,):
            waiting = (await tenant.instances.reserve("Waits", Template.MINIMAL)).job
        before = await tenants_by_database(admin)
        assert len(before) == 3
        assert set(before.values()) == {DEFAULT_TENANT}

        async with clients(several, own_temporal) as (first, second):
            await first.follow(waiting.job_id)
            assert await second.ask("GET", "/v2/dbInstances") == []
            own = await second.create("Of the second")
            await second.done("PUT", f"/v2/dbInstances/{own}", json={"name": "Of the second still"})
            assert await first.drift() == await second.drift() == []

            await first.done("PUT", f"/v2/dbInstances/{stays}", json={"name": "Stays here"})
            await first.done("POST", f"/v2/dbInstances/{comes_back}/undelete")
            purged = await first.ask("DELETE", f"/v2/trash/{goes}")
            await first.follow(purged["jobId"])
            short = await second.create("Short")
            await second.done("DELETE", f"/v2/dbInstances/{short}?purge=true")
            assert await first.drift() == await second.drift() == []
        # The names for people have followed with the comments that were written.
        assert await tenants_by_database(admin) == {
            "EdFi_Ods_Stays_here_Minimal": FIRST,
            "EdFi_Ods_Comes_back_Minimal": FIRST,
            "EdFi_Ods_Waits_Minimal": FIRST,
            "EdFi_Ods_Of_the_second_still_Minimal": SECOND,
        }

        async with clients(one, own_temporal) as (first,):
            again = await first.create("Again")
            await first.done("DELETE", f"/v2/dbInstances/{again}?purge=true")
            await first.done("DELETE", f"/v2/dbInstances/{stays}?purge=true")
            assert await first.drift() == []
        assert await tenants_by_database(admin) == {
            "EdFi_Ods_Comes_back_Minimal": FIRST,
            "EdFi_Ods_Waits_Minimal": FIRST,
            "EdFi_Ods_Of_the_second_still_Minimal": SECOND,
        }
