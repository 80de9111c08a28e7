"""What an API process with more requests than it can serve refuses, and what it goes on answering."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.http.problems import ProblemError
from api.middleware import shedding
from api.middleware.shedding import CostlyRequests
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.observability.metrics.catalog import INSTRUMENTS
from ods.registry.storage.engine import POOL_SIZE
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api import server
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import make_settings, make_tenant_settings, session

INSTANCES = "/v2/dbInstances"
ODS_INSTANCES = "/v2/odsInstances"
ODS_INSTANCE = {
    "name": "A name",
    "instanceType": "A type",
    "connectionString": "host=test;port=90;username=test;password=test;database=X;pooling=false",
}
PLACES: int = Settings.model_fields["costly_requests_per_tenant"].default
CREATE = {"name": "One more", "databaseTemplate": "Minimal"}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a place no longer than it takes to see that they wait."""
    monkeypatch.setattr(shedding, "_WAIT_SECONDS", 0.2)


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@asynccontextmanager
async def locked_rows(dsn: str) -> AsyncIterator[None]:
    """Whatever changes an ODS instance hangs within the block; what reads it does not."""
    async with session(dsn) as connection, connection.transaction():
        await connection.execute("SELECT FROM dbo.odsinstances FOR UPDATE")
        yield


async def wait_for_lock(rows: asyncpg.Connection, count: int) -> None:
    """Return when so many sessions wait for the lock of another one."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    async def are_waiting() -> bool:
        return bool(await rows.fetchval(waiting) == count)

    await wait_until(are_waiting, 10)


async def created(api: httpx.AsyncClient) -> str:
    """The path of a new ODS instance."""
    answer = await api.post(ODS_INSTANCES, json=ODS_INSTANCE)
    assert answer.status_code == 201, answer.text
    return f"/v2{answer.headers['Location']}"


def change(api: httpx.AsyncClient, path: str) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(api.put(path, json=ODS_INSTANCE))


def in_work(kind: str) -> float:
    return INSTRUMENTS.get_sample_value("ods_http_requests_in_work", {"class": kind}) or 0


def shed(limit: str, tenant: str = DEFAULT_TENANT) -> float:
    labels = {"limit": limit, "tenant": tenant}
    return INSTRUMENTS.get_sample_value("ods_http_requests_shed_total", labels) or 0


def assert_shed(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "title": "The service has more requests than it can serve",
        "status": 503,
        "detail": "Nothing was done. Send the same request again in a few seconds.",
    }


def test_connections_are_left_for_what_is_cheap_when_the_limit_is_the_default() -> None:
    assert 0 < PLACES < POOL_SIZE


@pytest.mark.usefixtures("soon")
async def test_costly_requests_are_refused_and_cheap_ones_answered_when_others_hang(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    one = await created(api)
    job = (await api.post(INSTANCES, json=CREATE)).json()["jobId"]
    audited = await rows.fetchval("SELECT count(*) FROM adminapi.audit")
    before = shed("tenant")

    async with locked_rows(registry_dsn):
        hanging = [change(api, one) for _ in range(PLACES)]
        await wait_for_lock(rows, PLACES)
        assert (in_work("costly"), in_work("waiting")) == (PLACES, 0)

        async with asyncio.timeout(5):
            refused = [
                await api.post(INSTANCES, json={**CREATE, "name": "Another"}),
                await api.get(INSTANCES, params={"name": "One more"}),
                await api.delete(one),
                await api.post(f"{INSTANCES}/bulk", json={"instances": [CREATE]}),
            ]
            for answer in refused:
                assert_shed(answer)
            for path in (one, f"/v2/jobs/{job}", "/livez", "/readyz", "/health", "/"):
                assert (await api.get(path)).status_code == 200, path
            unknown = {"grant_type": "client_credentials", "client_id": "unknown", "scope": "x"}
            assert (await api.post("/connect/token", data=unknown)).status_code == 400
            stranger = {"Authorization": "Bearer nothing"}
            assert (await api.delete(one, headers=stranger)).status_code == 401
        assert shed("tenant") == before + len(refused)

    assert [answer.status_code for answer in await asyncio.gather(*hanging)] == [200] * PLACES
    assert (in_work("costly"), in_work("waiting"), in_work("cheap")) == (0, 0, 0)
    assert (await api.get(INSTANCES)).status_code == 200
    written = await rows.fetch("SELECT method, status FROM adminapi.audit ORDER BY id OFFSET $1", audited)
    assert 503 not in {entry["status"] for entry in written}
    assert [entry["method"] for entry in written].count("PUT") == PLACES


async def test_request_is_served_when_a_place_is_free_in_time(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    one = await created(api)
    async with locked_rows(registry_dsn):
        hanging = [change(api, one) for _ in range(PLACES)]
        await wait_for_lock(rows, PLACES)
        waiting = asyncio.create_task(api.post(INSTANCES, json=CREATE))

        async def waits() -> bool:
            return in_work("waiting") == 1

        await wait_until(waits, 5, interval=0.01)
    assert (await waiting).status_code == 202
    assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {200}


@pytest.mark.usefixtures("soon")
async def test_requests_for_several_instances_keep_no_places_when_they_wait_for_each_other(
    api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    async with session(registry_dsn) as other, other.transaction():
        await other.execute("LOCK TABLE adminapi.jobstatuses IN SHARE MODE")
        entries = {"instances": [CREATE]}
        several = [asyncio.create_task(api.post(f"{INSTANCES}/bulk", json=entries)) for _ in range(3)]
        await wait_for_lock(rows, 1)
        assert (in_work("costly"), in_work("waiting")) == (1, 0)
        assert (await api.get(ODS_INSTANCES)).status_code == 200
    statuses = [answer.status_code for answer in await asyncio.gather(*several)]
    assert sorted(statuses) == [202, 400, 400]  # the others: the name is taken


@pytest.mark.usefixtures("soon")
async def test_nothing_is_refused_when_the_limits_are_switched_off(
    settings: Settings, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    unlimited = settings.model_copy(update={"costly_requests": 0, "costly_requests_per_tenant": 0})
    async with running(unlimited, NOBODY) as app, client_of(app, headers=bearer(unlimited)) as api:
        one = await created(api)
        async with locked_rows(registry_dsn):
            hanging = [change(api, one) for _ in range(POOL_SIZE - 1)]
            await wait_for_lock(rows, POOL_SIZE - 1)
            assert (await api.get(INSTANCES)).status_code == 200
        assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {200}


@pytest.mark.usefixtures("soon")
async def test_other_tenant_is_served_when_requests_of_one_hang(
    settings: Settings,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    second_registry_dsn: str,
    rows: asyncpg.Connection,
) -> None:
    one_place = {"costly_requests_per_tenant": 1}
    second = make_settings(postgres, second_registry_dsn, rate_limiting=False, **one_place)
    several = make_tenant_settings({"one": settings.model_copy(update=one_place), "two": second})
    headers = {name: {"tenant": name, **bearer(several, tenant=name)} for name in several.tenants}
    before = shed("tenant", "one")
    async with (
        running(several, NOBODY) as app,
        client_of(app, headers=headers["one"]) as one,
        client_of(app, headers=headers["two"]) as two,
    ):
        path = await created(one)
        async with locked_rows(registry_dsn):
            hanging = change(one, path)
            await wait_for_lock(rows, 1)
            assert_shed(await one.get(INSTANCES))
            assert (await two.get(INSTANCES)).status_code == 200
        assert (await hanging).status_code == 200
    assert shed("tenant", "one") == before + 1


@pytest.mark.usefixtures("soon")
async def test_limit_of_the_process_counts_when_the_tenant_has_places(settings: Settings) -> None:
    places = CostlyRequests(settings.model_copy(update={"costly_requests": 1}))
    before = shed("process"), shed("tenant")
    async with places.place(DEFAULT_TENANT):
        with pytest.raises(ProblemError, match="more requests"):
            await places.place(DEFAULT_TENANT).__aenter__()
    assert (shed("process"), shed("tenant")) == (before[0] + 1, before[1])
    async with asyncio.timeout(5), places.place(DEFAULT_TENANT):
        assert in_work("costly") == 1


async def test_place_is_free_again_when_requests_are_cancelled(settings: Settings) -> None:
    places = CostlyRequests(settings.model_copy(update={"costly_requests_per_tenant": 1}))
    has_place = asyncio.Event()

    async def serve() -> None:
        async with places.place(DEFAULT_TENANT):
            has_place.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await has_place.wait()
    waiting = asyncio.create_task(serve())

    async def waits() -> bool:
        return in_work("waiting") == 1

    await wait_until(waits, 5, interval=0.01)
    for task in (waiting, serving):
        task.cancel()
    await asyncio.gather(waiting, serving, return_exceptions=True)
    assert (in_work("costly"), in_work("waiting")) == (0, 0)
    async with asyncio.timeout(1), places.place(DEFAULT_TENANT):
        assert in_work("costly") == 1


async def test_place_is_free_again_when_the_client_has_gone(
    settings: Settings, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    port = free_port()
    limits = {"ODS_COSTLY_REQUESTS_PER_TENANT": "1", "ODS_METRICS_PORT": str(port)}
    async with (
        server.serving(settings, **limits) as serving,
        httpx.AsyncClient(base_url=serving.url, headers=bearer(settings), trust_env=False) as api,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as observer,
    ):

        async def is_idle() -> bool:
            families = text_string_to_metric_families((await observer.get("/metrics")).text)
            (gauge,) = [family for family in families if family.name == "ods_http_requests_in_work"]
            return {it.labels["class"]: it.value for it in gauge.samples}.get("costly") == 0

        one = await created(api)
        async with locked_rows(registry_dsn):
            hanging = change(api, one)
            await wait_for_lock(rows, 1)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            assert not await is_idle()  # its change is still under way, and holds a connection
        await wait_until(is_idle, 10)
        assert (await api.get(INSTANCES)).status_code == 200
