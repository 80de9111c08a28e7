from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import MINIMAL_TEMPLATE, SAMPLE_TEMPLATE, make_settings, scheduled

SPARES = "/v2/spares"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    return make_settings(postgres, registry_dsn, rate_limiting=False, spares=2, spares_limit=3)


@pytest.fixture
async def own_spares(instances: InstanceStore, admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Removes the spares of the test's registry."""
    yield
    prefix = f"ods_spare_{(await instances.installation.state()).id.replace('-', '')[:16]}_"
    for row in await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix):
        await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')


async def _spares(api: httpx.AsyncClient) -> dict[str, Any]:
    answer = await api.get(SPARES)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.usefixtures("own_spares", "workers")  # in the end, removed when no worker makes more
async def test_spares_are_made_and_taken_and_made_again_when_instances_are_created(
    api_with_temporal: httpx.AsyncClient, temporal: Client, settings: Settings, name: str
) -> None:
    api, wanted = api_with_temporal, {"name": name, "databaseTemplate": "Minimal"}

    async def full() -> bool:
        ready = {it["template"]: it["ready"] for it in (await _spares(api))["templates"]}
        return ready == {MINIMAL_TEMPLATE: 2, SAMPLE_TEMPLATE: 1}

    assert (await _spares(api))["templates"][0] == {
        "template": MINIMAL_TEMPLATE,
        "wanted": 2,
        "ready": 0,
        "stale": 0,
        "bytes": 0,
    }
    async with scheduled(temporal, settings):
        await wait_until(full, 30)
        created = (await api.post("/v2/dbInstances", json=wanted)).json()

        async def completed() -> bool:
            return bool((await api.get(f"/v2/dbInstances/{created['id']}")).json()["status"] == "Completed")

        await wait_until(completed, 20)
        await wait_until(full, 30)  # only the claim has asked for it
        assert (await api.post(f"{SPARES}/refill")).status_code == 202


async def test_refill_is_unavailable_when_no_worker_has_set_up_the_schedule(
    api_with_temporal: httpx.AsyncClient,
) -> None:
    answer = await api_with_temporal.post(f"{SPARES}/refill")

    assert answer.status_code == 503
    assert "ODS_SPARES" in answer.json()["title"]


async def test_refill_is_unavailable_when_temporal_is_away(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.post(f"{SPARES}/refill")

    assert answer.status_code == 503
    assert answer.json()["title"] == "Temporal cannot be reached"


async def test_spares_cannot_be_shown_when_the_server_is_away(
    postgres: EmbeddedPostgres, registry_dsn: str
) -> None:
    away = f"postgresql://u:p@127.0.0.1:{free_port()}/postgres"
    settings = make_settings(postgres, registry_dsn, master_dsn=away)
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as api:
        answer = await api.get(SPARES)

    assert answer.status_code == 503
    assert answer.json()["title"] == "The PostgreSQL server of the ODS databases cannot be reached."
