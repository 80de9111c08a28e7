"""Two tenants on servers of their own, served by one worker and one API."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import MultiTenantSettings
from tests.api.service import bearer, served
from tests.servers import (
    NUMBERS,
    make_settings,
    make_tenant_settings,
    session,
)

TENANTS = ("tenant1", "tenant2")


@pytest.fixture
def several(
    postgres: EmbeddedPostgres, registry_dsn: str, other_postgres: EmbeddedPostgres, other_registry_dsn: str
) -> MultiTenantSettings:
    """The second tenant has the second server."""
    first = make_settings(postgres, registry_dsn, rate_limiting=False)
    return make_tenant_settings(
        {"tenant1": first, "tenant2": make_settings(other_postgres, other_registry_dsn)}
    )


class Requests:
    """What clients of the tenants ask for."""

    def __init__(self, client: httpx.AsyncClient, several: MultiTenantSettings) -> None:
        self._client = client
        self._headers = {name: {"tenant": name, **bearer(several, tenant=name)} for name in TENANTS}

    async def ask(self, tenant: str, method: str, path: str, **content: Any) -> httpx.Response:
        return await self._client.request(method, path, headers=self._headers[tenant], **content)

    async def create(self, tenant: str, name: str) -> Any:
        body = {"name": name, "databaseTemplate": "Minimal"}
        answer = await self.ask(tenant, "POST", "/v2/dbInstances", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def ends(self, tenant: str, job: str) -> Any:
        """The job, when it has ended."""
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            found.update((await self.ask(tenant, "GET", f"/v2/jobs/{job}")).json())
            return found["status"] in {"Completed", "Error"}

        await wait_until(has_ended, 30)
        return found


@contextmanager
def paused(server: EmbeddedPostgres) -> Iterator[None]:
    """The server answers no client any more, but its connections stay open."""
    processes = [
        server.pid,
        *map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()),
    ]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


async def _databases(server: EmbeddedPostgres, name: str) -> int:
    async with session(server.dsn()) as connection:
        return int(
            await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname LIKE $1", f"%{name}%")
        )


async def test_tenants_share_nothing_when_names_and_ids_are_equal(
    several: MultiTenantSettings,
    own_temporal: Client,
    postgres: EmbeddedPostgres,
    other_postgres: EmbeddedPostgres,
) -> None:
    number = next(NUMBERS) * 100_000
    for own in several.tenants.values():
        async with session(own.admin_dsn.get_secret_value()) as registry:
            await registry.execute(f"ALTER SEQUENCE dbo.odsinstances_odsinstanceid_seq RESTART WITH {number}")
            await registry.execute(f"ALTER TABLE adminapi.dbinstances ALTER COLUMN id RESTART WITH {number}")
    name = f"Same {number}"
    async with served(several, own_temporal) as client:
        requests = Requests(client, several)
        one, two = [await requests.create(tenant, name) for tenant in TENANTS]
        assert one == two
        for tenant in TENANTS:
            assert (await requests.ends(tenant, one["jobId"]))["status"] == "Completed"
            described = await own_temporal.get_workflow_handle(f"{tenant}:{number}").describe()
            assert described.workflow_type == "CreateInstance"
        database = f"EdFi_Ods_Same_{number}_Minimal"
        assert [await _databases(server, database) for server in (postgres, other_postgres)] == [1, 1]

        deleted = (await requests.ask("tenant1", "DELETE", f"/v2/dbInstances/{number}")).json()
        assert (await requests.ends("tenant1", deleted["jobId"]))["status"] == "Completed"
        assert [await _databases(server, database) for server in (postgres, other_postgres)] == [0, 1]
        assert (await requests.ask("tenant1", "GET", f"/v2/dbInstances/{number}")).status_code == 404
        kept = (await requests.ask("tenant2", "GET", f"/v2/dbInstances/{number}")).json()
        assert kept["status"] == "Completed"
        assert (await requests.ask("tenant2", "GET", f"/v2/jobs/{deleted['jobId']}")).status_code == 404
        view = (await requests.ask("tenant2", "GET", "/v2/tenants/tenant2/odsInstances/edOrgs")).json()
        assert [one["name"] for one in view["odsInstances"]] == [name]
        assert (
            await requests.ask("tenant1", "GET", "/v2/tenants/tenant2/odsInstances/edOrgs")
        ).status_code == 404


async def test_tenant_works_when_the_server_of_another_is_stopped_before_the_start(
    several: MultiTenantSettings, own_temporal: Client, other_postgres: EmbeddedPostgres
) -> None:
    name = f"Alone {next(NUMBERS)}"
    await other_postgres.stop()
    async with served(several, own_temporal) as client:
        requests = Requests(client, several)
        for _ in range(2):
            assert (await requests.ask("tenant2", "GET", "/v2/dbInstances")).status_code == 503
        health = (await client.get("/health")).json()
        assert health["status"] == "Degraded"
        assert {"name": "database:tenant2", "status": "Unhealthy"} in health["results"]
        created = await requests.create("tenant1", name)
        assert (await requests.ends("tenant1", created["jobId"]))["status"] == "Completed"

        await other_postgres.start()
        created = await requests.create("tenant2", name)
        assert (await requests.ends("tenant2", created["jobId"]))["status"] == "Completed"


async def test_tenant_works_when_the_server_of_another_hangs_with_all_its_jobs(
    several: MultiTenantSettings, own_temporal: Client, other_postgres: EmbeddedPostgres
) -> None:
    async with served(several, own_temporal) as client:
        requests = Requests(client, several)
        many = 2 * several.ddl_concurrency + 1
        waiting = [await requests.create("tenant2", f"Waits {next(NUMBERS)}") for _ in range(many)]
        with paused(other_postgres):
            created = await requests.create("tenant1", f"Goes on {next(NUMBERS)}")
            assert (await requests.ends("tenant1", created["jobId"]))["status"] == "Completed"
        for job in waiting:
            assert (await requests.ends("tenant2", job["jobId"]))["status"] in {"Completed", "Error"}
