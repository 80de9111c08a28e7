import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.model.operations import Template
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.servers import scheduled

SWEEP = "/v2/sweep"


@pytest.mark.usefixtures("workers")
async def test_pending_row_is_completed_when_a_sweep_is_requested(
    api_with_temporal: httpx.AsyncClient,
    temporal: Client,
    settings: Settings,
    instances: InstanceStore,
    name: str,
) -> None:
    requested = await instances.reserve(name, Template.MINIMAL)

    async def is_completed() -> bool:
        instance = await api_with_temporal.get(f"/v2/dbInstances/{requested.instance.id}")
        return bool(instance.json()["status"] == "Completed")

    async with scheduled(temporal, settings):
        assert (await api_with_temporal.post(SWEEP)).status_code == 202
        await wait_until(is_completed, 20)


async def test_sweep_is_unavailable_when_no_worker_has_set_up_the_schedule(
    api_with_temporal: httpx.AsyncClient,
) -> None:
    answer = await api_with_temporal.post(SWEEP)

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "No worker has set up the schedule of the sweep yet"


async def test_sweep_is_unavailable_when_temporal_is_away(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.post(SWEEP)

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "Temporal cannot be reached"
