"""How the service tells that it is well, and what is wrong if it is not."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from temporalio.client import Client

from api import health
from api.health_checks import Check, HealthStatus
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.settings.settings import Settings
from ods.temporal import liveness, schedules
from ods.tenants.tenant import Tenant
from tests import registries
from tests.api.server import Server
from tests.api.service import NOBODY, client_of, running
from tests.servers import make_settings, make_tenant_settings, scheduled, seeded_postgres, session

UNREACHABLE = SecretStr("postgresql://service:a-password@127.0.0.1:1/EdFi_Admin")
READ_ONLY = "It is read-only, or a standby."
TENANTS = 100
NOW = timedelta()


async def statuses(client: httpx.AsyncClient) -> dict[str, str]:
    """The status of each part."""
    return {part["name"]: part["status"] for part in (await client.get("/health")).json()["results"]}


async def details(client: httpx.AsyncClient) -> dict[str, str | None]:
    """What is wrong with each part."""
    return {part["name"]: part.get("detail") for part in (await client.get("/health")).json()["results"]}


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe looks, unless a test is about those that do not."""
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)


@pytest.mark.usefixtures("workers")
async def test_service_is_healthy_when_workers_poll_and_passes_run(
    api_with_temporal: httpx.AsyncClient, temporal: Client, settings: Settings
) -> None:
    async def is_healthy() -> bool:
        return bool((await api_with_temporal.get("/health")).json()["status"] == "Healthy")

    async with scheduled(temporal, settings):
        await wait_until(is_healthy, 20)  # until the workers have begun to poll, and the passes have run
        answer = await api_with_temporal.get("/health", headers={"Authorization": ""})

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {
        "status": "Healthy",
        "results": [
            {"name": "database", "status": "Healthy"},
            {"name": "rights", "status": "Healthy"},
            {"name": "odsServer", "status": "Healthy"},
            {"name": "installation", "status": "Healthy"},
            {"name": "temporal", "status": "Healthy"},
            {"name": f"taskQueue:{settings.registry_queue}", "status": "Healthy"},
            {"name": f"taskQueue:{settings.ddl_queue}", "status": "Healthy"},
            {"name": f"taskQueue:{settings.refresh_queue}", "status": "Healthy"},
            {"name": f"taskQueue:{settings.backup_queue}", "status": "Healthy"},
            {"name": "pass:pending-sweep", "status": "Healthy"},
            {"name": "pass:reconcile", "status": "Healthy"},
        ],
    }


async def test_service_says_that_backups_are_unencrypted_and_is_as_well_when_they_have_no_recipients(
    settings: Settings, tmp_path: Path
) -> None:
    stored = settings.model_copy(update={"backup_url": tmp_path.as_uri()})
    async with running(stored, NOBODY) as app, client_of(app) as client:
        assert (await statuses(client))["backups"] == "Healthy"
        assert "unencrypted" in str((await details(client))["backups"])
    encrypted = stored.model_copy(update={"backup_recipients": "age1one"})
    async with running(encrypted, NOBODY) as app, client_of(app) as client:
        assert "backups" not in await statuses(client)


async def test_service_says_until_when_drops_are_held_back_and_is_as_well(
    settings: Settings, tenant: Tenant, registry_dsn: str
) -> None:
    await tenant.cancellations.hold_drops()
    async with running(settings, NOBODY) as app, client_of(app) as client:
        answer = (await client.get("/health")).json()
    until = datetime.now(UTC) + KEPT_IN_DOUBT
    (told,) = (part for part in answer["results"] if part["name"] == "installation")
    assert told["status"] == "Healthy"
    assert "Nothing that was in the trash when this was seen is dropped before" in told["detail"]
    assert any(f"{until - late:%Y-%m-%d %H:%M} UTC" in told["detail"] for late in (NOW, timedelta(minutes=1)))
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET helduntil = now() AT TIME ZONE 'utc'")
    async with running(settings, NOBODY) as app, client_of(app) as client:
        assert (await details(client))["installation"] is None


async def test_service_is_degraded_when_no_worker_polls(
    api_with_temporal: httpx.AsyncClient, settings: Settings
) -> None:
    answer = await api_with_temporal.get("/health")
    told = {part["name"]: part for part in answer.json()["results"]}

    assert (answer.status_code, answer.json()["status"]) == (200, "Degraded")
    for part in ("database", "odsServer", "temporal"):
        assert told[part] == {"name": part, "status": "Healthy"}
    for queue in (
        *(settings.registry_queue, settings.ddl_queue),
        *(settings.refresh_queue, settings.backup_queue),
    ):
        part = told[f"taskQueue:{queue}"]
        assert (part["status"], part["detail"]) == ("Degraded", "No worker polls it.")


async def test_service_is_degraded_when_temporal_is_away(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/health")

    assert (answer.status_code, answer.json()["status"]) == (200, "Degraded")
    assert [part["status"] for part in answer.json()["results"]] == ["Healthy"] * 4 + ["Degraded"] * 7
    assert all(set(part) == {"name", "status"} for part in answer.json()["results"])


async def test_service_is_unhealthy_when_the_registry_refuses_connections(idle_settings: Settings) -> None:
    broken = idle_settings.model_copy(update={"admin_dsn": UNREACHABLE})
    async with running(broken, NOBODY) as app, client_of(app) as client:
        answer = await client.get("/health")

    assert answer.status_code == 503
    assert answer.json()["status"] == "Unhealthy"
    assert answer.json()["results"][0] == {"name": "database", "status": "Unhealthy"}


async def test_service_is_unhealthy_when_the_registry_can_only_be_read(
    settings: Settings, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    database = settings.admin_dsn.get_secret_value().rsplit("/", 1)[1]
    await admin.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    try:
        async with running(settings, NOBODY) as app, client_of(app) as client:
            answer = await client.get("/health")
    finally:
        await admin.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')

    assert (answer.status_code, answer.json()["status"]) == (503, "Unhealthy")
    assert answer.json()["results"][0] == {"name": "database", "status": "Unhealthy", "detail": READ_ONLY}


async def test_service_is_degraded_when_the_server_of_the_ods_databases_is_away(
    idle_settings: Settings,
) -> None:
    broken = idle_settings.model_copy(update={"master_dsn": UNREACHABLE})
    async with running(broken, NOBODY) as app, client_of(app) as client:
        answer = await client.get("/health")

    assert (answer.status_code, answer.json()["status"]) == (200, "Degraded")
    assert answer.json()["results"][:3] == [
        {"name": "database", "status": "Healthy"},
        {"name": "rights", "status": "Healthy"},
        {"name": "odsServer", "status": "Degraded"},
    ]


async def test_service_is_degraded_when_the_server_of_the_ods_databases_can_only_be_read(
    idle_settings: Settings,
) -> None:
    dsn = f"{idle_settings.master_dsn.get_secret_value()}?options=-c%20default_transaction_read_only%3Don"
    standby = idle_settings.model_copy(update={"master_dsn": SecretStr(dsn)})
    async with running(standby, NOBODY) as app, client_of(app) as client:
        assert (await details(client))["odsServer"] == READ_ONLY


async def test_pass_is_degraded_when_it_is_late_or_was_never_scheduled(
    own_temporal: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = own_temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app) as client:
        told = await details(client)
        assert told["pass:reconcile"] == "It has no schedule yet: a worker makes it when it starts."

        async with scheduled(own_temporal, settings):

            async def have_run() -> bool:
                told = await statuses(client)
                return told["pass:pending-sweep"] == told["pass:reconcile"] == "Healthy"

            await wait_until(have_run, 10)
            await own_temporal.get_schedule_handle(schedules.RECONCILE).pause()
            monkeypatch.setattr(liveness, "_MOST_INTERVALS", 0)
            monkeypatch.setattr(liveness, "_GRACE", timedelta(seconds=0.5))

            async def is_late() -> bool:
                return str((await details(client))["pass:reconcile"]).endswith(
                    " s ago: its schedule is paused."
                )

            await wait_until(is_late, 10)
            assert (await statuses(client))["pass:reconcile"] == "Degraded"


@pytest.mark.timed
async def test_health_is_told_soon_when_nothing_that_is_asked_says_anything(idle_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dsn = SecretStr(f"postgresql://service:a-password@127.0.0.1:{port}/EdFi_Admin")
        mute = idle_settings.model_copy(update={"admin_dsn": dsn, "master_dsn": dsn})
        async with running(mute, f"127.0.0.1:{port}") as app, client_of(app) as client:
            started = time.monotonic()
            answer = await client.get("/health")
            elapsed = time.monotonic() - started

    assert elapsed < 3
    assert answer.status_code == 503


@pytest.mark.parametrize("path", ["/", "/health", "/HEALTH/"])
async def test_head_is_answered_like_get_without_a_body(contract: Server, path: str) -> None:
    head = await contract.answer(f"HEAD {path} HTTP/1.0\r\nHost: api\r\n\r\n".encode())
    get = await contract.ask(f"GET {path}")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    assert f"content-length: {len(get.body)}\r\n".encode() in head


class Counting:
    """A part that is asked, and answers when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find(self) -> dict[str, str]:
        self.asked += 1
        self.begun.set()
        await asyncio.sleep(0.05)
        await self.may_answer.wait()
        return {}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The only part of the service."""
    part = Counting()
    only = Check(["database"], part.find, HealthStatus.UNHEALTHY)
    monkeypatch.setattr(health, "checks", lambda tenants: [only])
    return part


async def test_parts_are_asked_once_when_many_probe_at_once(
    idle_settings: Settings, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.5)
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:
        answers = await asyncio.gather(*(client.get("/health") for _ in range(50)))
        answers += [await client.get("/health") for _ in range(10)]
        assert {answer.text for answer in answers} == {
            '{"status":"Healthy","results":[{"name":"database","status":"Healthy"}]}'
        }
        assert counting.asked == 1

        async def is_asked_again() -> bool:
            await client.get("/health")
            return counting.asked == 2

        await wait_until(is_asked_again, 5)


async def test_part_that_is_late_is_asked_once_until_it_answers(
    idle_settings: Settings, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.may_answer.clear()
    monkeypatch.setattr(health, "TIMEOUT", 0.1)
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:
        assert await statuses(client) == {"database": "Unhealthy"}
        assert await statuses(client) == {"database": "Unhealthy"}

        monkeypatch.setattr(health, "TIMEOUT", 10.0)
        counting.may_answer.set()
        assert await statuses(client) == {"database": "Healthy"}
        assert counting.asked == 1


async def test_part_that_never_answers_is_asked_again(
    idle_settings: Settings, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.may_answer.clear()
    monkeypatch.setattr(health, "TIMEOUT", 0.1)
    monkeypatch.setattr(health, "_LONGEST_SECONDS", 0.2)
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:

        async def is_asked_again() -> bool:
            assert await statuses(client) == {"database": "Unhealthy"}
            return counting.asked > 1

        await wait_until(is_asked_again, 5)


async def test_other_probes_are_answered_when_one_of_them_goes_away(
    idle_settings: Settings, counting: Counting
) -> None:
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:
        gone, stays = (asyncio.create_task(client.get("/health")) for _ in range(2))
        await asyncio.wait_for(counting.begun.wait(), 5)
        gone.cancel()
        assert (await stays).status_code == 200


@pytest.fixture
async def roomy() -> AsyncIterator[Settings]:
    """Settings with a PostgreSQL that admits the sessions of very many tenants."""
    async with seeded_postgres(autovacuum="off", max_connections="300") as server:
        await registries.prepare(server)
        yield make_settings(server, await registries.clone(server))


@pytest.mark.timed
async def test_probe_costs_nothing_when_there_are_a_hundred_tenants(
    roomy: Settings, temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"tenant{number}" for number in range(TENANTS)]
    one = make_tenant_settings({"tenant": roomy})
    queues = [{"task_queue": f"{roomy.task_queue}-{name}"} for name in names]
    many = one.model_copy(
        update={
            "tenants": {
                name: roomy.model_copy(update=queue) for name, queue in zip(names, queues, strict=True)
            }
        }
    )
    async with running(many, temporal.service_client.config.target_host) as app, client_of(app) as client:

        async def registries_answer() -> bool:
            told = await statuses(client)
            return all(told[f"database:{name}"] == told[f"odsServer:{name}"] == "Healthy" for name in names)

        await wait_until(registries_answer, 30)
        examinations = []
        for _ in range(4):  # the first ones open sessions on each registry
            started = time.perf_counter()
            told = await statuses(client)
            examinations.append(time.perf_counter() - started)
        examined = min(examinations)
        assert len(told) == 1 + 10 * TENANTS
        assert told["temporal"] == "Healthy"
        monkeypatch.setattr(health, "_FRESH_SECONDS", 60.0)
        await client.get("/health")
        durations = []
        for _ in range(20):
            started = time.perf_counter()
            await client.get("/health")
            durations.append(time.perf_counter() - started)
    print(f"examined in {1000 * examined:.0f} ms, told in {1000 * max(durations):.1f} ms")  # noqa: T201 - the figures
    assert examined < 1.5
    assert min(durations) < 0.05
