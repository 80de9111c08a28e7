"""The only tenant becomes one of several whose databases are on one server, and the only one again."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.databases.ownership import Owner
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import Template
from ods.settings.settings import DEFAULT_TENANT, AnySettings, MultiTenantSettings, Settings
from ods.tenants import installation_check
from ods.tenants.tenant import open_tenants
from tests import registries
from tests.api.service import bearer, served
from tests.end_to_end.conftest import cleaned
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
async def one(server: EmbeddedPostgres, store: Path) -> Settings:
    """Those of the only tenant."""
    return await settings_of(server, "EdFi_Admin", store)


@pytest.fixture
async def several(server: EmbeddedPostgres, one: Settings, store: Path) -> MultiTenantSettings:
    """The same registry as that of a tenant beside another, both with the same server and store."""
    return make_tenant_settings({FIRST: one, SECOND: await settings_of(server, "EdFi_Admin_B", store)})


async def settings_of(server: EmbeddedPostgres, registry: str, store: Path) -> Settings:
    return make_settings(
        server,
        await registries.clone(server, registry),
        master_dsn=service_dsn(server, "postgres"),
        rate_limiting=False,
        shared_server=False,
        backup_url=store.as_uri(),
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
        for job in filter(None, [accepted["jobId"], accepted.get("purgeJobId")]):
            await self.follow(job)
        return int(accepted["id"])

    async def follow(self, job: str) -> None:
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            answer = await self.client.get(f"/v2/jobs/{job}", headers=self.headers)
            found.update(answer.json())  # a purge that follows a delete may not be requested yet
            return found["status"] in {"Completed", "Error"}

        await wait_until(has_ended, 30)
        assert found["status"] == "Completed", found

    async def create(self, name: str) -> int:
        body = {"name": name, "databaseTemplate": "Minimal"}
        return await self.done("POST", "/v2/dbInstances", json=body)

    async def back_up(self, instance: int) -> str:
        """The id of a backup of the instance that is made now."""
        accepted = await self.ask("POST", f"/v2/dbInstances/{instance}/backups")
        await self.follow(accepted["jobId"])
        return str(accepted["backupId"])

    async def restore(self, backup: str, name: str) -> int:
        return await self.done("POST", "/v2/dbInstances", json={"name": name, "backupId": backup})

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


def stored(store: Path) -> list[tuple[str, int]]:
    """The names of the tenants by which the store has backups, and how many of each."""
    return sorted(Counter(path.parts[-4] for path in store.glob("*/*/*/manifest.json")).items())


async def test_jobs_go_on_when_the_only_tenant_becomes_one_of_several_and_the_only_one_again(
    one: Settings,
    several: MultiTenantSettings,
    server: EmbeddedPostgres,
    own_temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installation_check, "_KNOWN_SECONDS", 0)  # each job checks the server
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


async def test_backups_are_found_when_their_folder_gets_the_new_name_of_the_tenant(
    one: Settings, several: MultiTenantSettings, store: Path, own_temporal: Client
) -> None:
    async with clients(one, own_temporal) as (first,):
        instance = await first.create("Backed up")
        backups = [await first.back_up(instance) for _ in range(3)]
    async with session(one.admin_dsn.get_secret_value()) as rows:
        await rows.execute("DELETE FROM adminapi.backups WHERE id = $1", backups[2])  # the pass finds it

    async with clients(several, own_temporal) as (first, second):
        refused = await first.client.delete(f"/v2/backups/{backups[0]}", headers=first.headers)
        assert refused.status_code == 409
        assert f"copy the backup to {store.as_uri()}/{FIRST}/{instance}/" in refused.json()["detail"]
        (store / DEFAULT_TENANT).rename(store / FIRST)
        await second.back_up(await second.create("Of the second"))
        await first.restore(backups[0], "Restored")
        await first.done("DELETE", f"/v2/dbInstances/{instance}?purge=true&finalBackup=true")
        async with open_tenants(several) as (tenant, _):
            report = await cleaned(tenant)
        assert (report.left, report.missing, report.elsewhere, report.unknown) == (None, 0, 0, 0)

        async def are_located() -> bool:
            found = {one["id"]: one["location"] for one in await first.ask("GET", "/v2/backups")}
            return {*backups} < {*found} and all(f"/{FIRST}/" in location for location in found.values())

        await wait_until(are_located, 30)  # the lost one by either pass
        deleted = await first.client.delete(f"/v2/backups/{backups[0]}", headers=first.headers)
        assert deleted.status_code in {200, 204}, deleted.text
        assert stored(store) == [(FIRST, 3), (SECOND, 1)]
