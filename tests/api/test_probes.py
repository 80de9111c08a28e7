"""Whether the API may get traffic, and what it counts of requests."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.observability.metrics import recently
from ods.observability.metrics.catalog import INSTRUMENTS
from ods.settings.settings import Settings
from tests import registries
from tests.api.server import spellings
from tests.api.service import NOBODY, client_of, running
from tests.servers import make_settings, make_tenant_settings, session

UNREACHABLE = SecretStr("postgresql://service:a-password@127.0.0.1:1/EdFi_Admin")


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe looks."""
    monkeypatch.setattr(recently, "_FRESH_SECONDS", 0.0)


@asynccontextmanager
async def observed(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """A client of the API's public port without a token, and one of its port for metrics."""
    port = free_port()
    settings = settings.model_copy(update={"metrics_port": port})
    async with (
        running(settings, NOBODY) as app,
        client_of(app) as public,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as private,
    ):
        yield public, private


@pytest.mark.parametrize("spelled", [*spellings("/livez"), *spellings("/readyz")])
async def test_probes_need_no_token_when_all_is_well(idle_stranger: httpx.AsyncClient, spelled: str) -> None:
    answer = await idle_stranger.get(spelled)

    assert answer.status_code == 200
    assert answer.json() == {"status": "alive" if "live" in spelled.lower() else "ready"}
    assert (await idle_stranger.head(spelled)).status_code == 200


async def test_api_is_ready_when_temporal_is_away(idle_settings: Settings) -> None:
    async with observed(idle_settings) as (public, private):
        assert (await public.get("/readyz")).status_code == 200
        told = (await private.get("/readyz")).json()
        assert told["status"] == "ready"
        assert told["concerns"] == [
            "Temporal cannot be reached: requests are accepted, and their jobs started later."
        ]
        assert (await private.get("/readyz?strict")).json() == {
            "status": "not ready",
            "reasons": told["concerns"],
        }
        assert (await private.get("/startupz")).json() == {"status": "started"}


async def test_api_is_not_ready_when_no_registry_can_be_reached(idle_settings: Settings) -> None:
    away = idle_settings.model_copy(update={"admin_dsn": UNREACHABLE})
    async with observed(away) as (public, private):
        answer, detailed = await public.get("/readyz"), await private.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
        assert detailed.status_code == 503
        assert detailed.json()["reasons"] == ["Tenant default: The registry cannot be reached."]
        assert (await public.get("/livez")).status_code == 200

        scraped = await private.get("/metrics")
        families = {it.name: it for it in text_string_to_metric_families(scraped.text)}
        assert "ods_instances" not in families
        failed = {it.labels["source"]: it.value for it in families["ods_scrape_errors"].samples}
        assert min(failed["registry"], failed["temporal"]) >= 1


async def test_api_is_ready_when_one_of_two_registries_can_be_reached(idle_settings: Settings) -> None:
    away = idle_settings.model_copy(update={"admin_dsn": UNREACHABLE})
    both = make_tenant_settings({"gone": away, "here": idle_settings})
    async with running(both, NOBODY) as app, client_of(app) as client:
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("statement", "is_ready"),
    [
        ("DELETE FROM adminapi.ods_migrations", False),
        ("UPDATE adminapi.ods_migrations SET version_num = '9999'", True),  # a later release's
        ("DROP TABLE adminapi.ods_migrations", False),
    ],
    ids=["behind", "ahead", "never migrated"],
)
async def test_api_is_not_ready_when_tables_are_missing(
    prepared_postgres: EmbeddedPostgres, statement: str, *, is_ready: bool
) -> None:
    async with registries.cloned(prepared_postgres) as dsn:
        async with session(dsn) as registry:
            await registry.execute(statement)
        async with observed(make_settings(prepared_postgres, dsn)) as (_, private):
            answer = await private.get("/readyz")
    assert (answer.status_code == 200) is is_ready
    if not is_ready:
        assert "run `ods migrate`" in answer.json()["reasons"][0]


async def test_api_is_not_ready_when_its_registry_is_a_standby(
    prepared_postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    async with registries.cloned(prepared_postgres) as dsn:
        database = dsn.rpartition("/")[2]
        await admin.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
        async with observed(make_settings(prepared_postgres, dsn)) as (_, private):
            assert (await private.get("/readyz")).json()["reasons"] == [
                "Tenant default: The registry is read-only, or a standby."
            ]


async def test_api_is_not_ready_when_a_signal_tells_it_to_stop(idle_settings: Settings) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        async with observed(idle_settings) as (public, private):
            assert (await public.get("/readyz")).status_code == 200
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await public.get("/readyz")).status_code == 503
            assert "stopping" in (await private.get("/readyz")).json()["reasons"][0]
            assert (await private.get("/livez")).status_code == 200
            assert heard == [signal.SIGTERM]  # the server that runs the API hears it as well
    finally:
        signal.signal(signal.SIGTERM, before)


def requests(route: str, method: str, status: int) -> float:
    labels = {"route": route, "method": method, "status": str(status)}
    return INSTRUMENTS.get_sample_value("ods_http_requests_total", labels) or 0


@pytest.mark.parametrize(
    ("method", "path", "route", "counted", "status"),
    [
        ("GET", "/health", "/health", "GET", 200),
        ("GET", "/v2/dbinstances/4711", "/v2/dbInstances/{instance_id}", "GET", 401),
        ("GET", "/nowhere/4711", "none", "GET", 404),
        ("MADEUP4711", "/", "/", "other", 405),
    ],
)
async def test_request_is_counted_by_the_template_of_its_path(
    idle_stranger: httpx.AsyncClient,
    method: str,
    path: str,
    route: str,
    counted: str,
    status: int,
) -> None:
    before = requests(route, counted, status)

    answer = await idle_stranger.request(method, path)

    assert answer.status_code == status
    assert requests(route, counted, status) == before + 1


async def test_granted_request_is_counted_by_the_template_of_its_path(idle_api: httpx.AsyncClient) -> None:
    before = requests("/v2/dbInstances/{instance_id}", "GET", 404)
    assert (await idle_api.get("/V2/dbinstances/4711/")).status_code == 404
    assert requests("/v2/dbInstances/{instance_id}", "GET", 404) == before + 1


async def test_unforeseen_fault_is_counted_when_an_endpoint_raises(
    idle_app: FastAPI, idle_stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = requests("/health", "GET", 500)
    monkeypatch.delattr(idle_app.state, "health")
    assert (await idle_stranger.get("/health")).status_code == 500
    assert requests("/health", "GET", 500) == before + 1
