import socket
import time

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from cli.polling import wait_until
from settings import Settings
from tests.api.server import Server, spellings
from tests.api.service import NOBODY, client_of, running

UNREACHABLE = SecretStr("postgresql://somebody:a-password@127.0.0.1:1/EdFi_Admin")


async def test_versions_and_tenancy_are_told_when_anybody_asks(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/")

    information = answer.json()
    assert information.pop("version")
    assert information.pop("build")
    assert information == {
        "specificationVersion": "v2",
        "tenancy": {"multitenantMode": False, "tenants": []},
    }


@pytest.mark.parametrize("target", ["/", "/?X=y"])
async def test_information_is_as_agreed_when_it_is_asked_for_by_bytes(contract: Server, target: str) -> None:
    answer = await contract.ask(f"GET {target}")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert set(answer.json()) == {"version", "build", "specificationVersion", "tenancy"}
    assert b'"specificationVersion":"v2"' in answer.body
    assert b'"tenancy":{"multitenantMode":false,"tenants":[]}' in answer.body


@pytest.mark.parametrize("spelled", spellings("/health"))
async def test_health_is_as_agreed_when_it_is_asked_for_by_bytes(contract: Server, spelled: str) -> None:
    answer = await contract.ask(f"GET {spelled}")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json()["status"] in {"Healthy", "Degraded"}
    assert all(set(part) == {"name", "status"} for part in answer.json()["results"])


@pytest.mark.usefixtures("workers")
async def test_service_is_healthy_when_workers_poll(
    api_with_temporal: httpx.AsyncClient, settings: Settings
) -> None:
    async def is_healthy() -> bool:
        return bool((await api_with_temporal.get("/health")).json()["status"] == "Healthy")

    await wait_until(is_healthy, 10)  # until the workers have begun to poll
    answer = await api_with_temporal.get("/health", headers={"Authorization": ""})

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "Healthy",
        "results": [
            {"name": "database", "status": "Healthy"},
            {"name": "temporal", "status": "Healthy"},
            {"name": f"taskQueue:{settings.registry_queue}", "status": "Healthy"},
            {"name": f"taskQueue:{settings.ddl_queue}", "status": "Healthy"},
            {"name": f"taskQueue:{settings.refresh_queue}", "status": "Healthy"},
        ],
    }


async def test_service_is_degraded_when_nobody_polls(api_with_temporal: httpx.AsyncClient) -> None:
    answer = await api_with_temporal.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "Degraded"
    assert [part["status"] for part in answer.json()["results"]] == [
        *["Healthy"] * 2,
        *["Degraded"] * 3,
    ]


async def test_service_is_degraded_when_temporal_is_away(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "Degraded"
    assert [part["status"] for part in answer.json()["results"]] == ["Healthy", *["Degraded"] * 4]


async def test_service_is_unhealthy_when_the_registry_refuses_connections(idle_settings: Settings) -> None:
    broken = idle_settings.model_copy(update={"admin_dsn": UNREACHABLE})
    async with running(broken, NOBODY) as app, client_of(app) as client:
        answer = await client.get("/health")

    assert answer.status_code == 503
    assert answer.json()["status"] == "Unhealthy"
    assert answer.json()["results"][0] == {"name": "database", "status": "Unhealthy"}


async def test_health_is_told_soon_when_neither_registry_nor_temporal_says_anything(
    idle_settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dsn = SecretStr(f"postgresql://somebody:a-password@127.0.0.1:{port}/EdFi_Admin")
        mute = idle_settings.model_copy(update={"admin_dsn": dsn})
        async with running(mute, f"127.0.0.1:{port}") as app, client_of(app) as client:
            started = time.monotonic()
            answer = await client.get("/health")
            elapsed = time.monotonic() - started

    assert elapsed < 3
    assert answer.status_code == 503


async def test_every_endpoint_is_documented_when_the_description_is_asked_for(
    idle_stranger: httpx.AsyncClient,
) -> None:
    description = (await idle_stranger.get("/openapi.json")).json()
    operations = {
        f"{verb.upper()} {path}": operation
        for path, verbs in description["paths"].items()
        for verb, operation in verbs.items()
    }

    assert set(operations) == {
        "GET /",
        "GET /health",
        "POST /connect/register",
        "POST /connect/token",
        "POST /v2/dbInstances",
        "GET /v2/dbInstances",
        "GET /v2/dbInstances/{instance_id}",
        "PUT /v2/dbInstances/{instance_id}",
        "DELETE /v2/dbInstances/{instance_id}",
        "POST /v2/dbInstances/{instance_id}/retry",
        "GET /v2/dbInstances/{instance_id}/database",
        "POST /v2/dbInstances/{instance_id}/adopt",
        "POST /v2/odsInstances/manage",
        "GET /v2/odsInstances/manage",
        "GET /v2/odsInstances/manage/{instance_id}",
        "PUT /v2/odsInstances/manage/{instance_id}",
        "DELETE /v2/odsInstances/manage/{instance_id}",
        "GET /v2/odsInstances",
        "POST /v2/odsInstances",
        "GET /v2/odsInstances/{instance_id}",
        "PUT /v2/odsInstances/{instance_id}",
        "DELETE /v2/odsInstances/{instance_id}",
        "GET /v2/odsInstances/{instance_id}/applications",
        "GET /v2/odsInstanceContexts",
        "POST /v2/odsInstanceContexts",
        "GET /v2/odsInstanceContexts/{context_id}",
        "PUT /v2/odsInstanceContexts/{context_id}",
        "DELETE /v2/odsInstanceContexts/{context_id}",
        "GET /v2/odsInstanceDerivatives",
        "POST /v2/odsInstanceDerivatives",
        "GET /v2/odsInstanceDerivatives/{derivative_id}",
        "PUT /v2/odsInstanceDerivatives/{derivative_id}",
        "DELETE /v2/odsInstanceDerivatives/{derivative_id}",
        "GET /v2/jobs/{jobId}",
        "POST /v2/sweep",
        "GET /v2/audit",
        "GET /v2/drift",
        "POST /v2/odsInstances/{instance_id}/edOrgs/refresh",
        "POST /v2/odsInstances/edOrgs/refresh",
        "GET /v2/tenants",
        "GET /v2/tenants/{name}",
        "GET /v2/tenants/{name}/odsInstances/edOrgs",
        "POST /v2/spares/refill",
        "GET /v2/spares",
    }
    protected = {name: operation for name, operation in operations.items() if " /v2/" in name}
    for operation in protected.values():
        assert operation["security"] == [{"bearerToken": []}]
        assert {"401", "403"} <= set(operation["responses"])
    assert all("422" not in operation["responses"] for operation in operations.values())
    assert "409" in operations["DELETE /v2/dbInstances/{instance_id}"]["responses"]
    assert description["components"]["securitySchemes"]["bearerToken"]["scheme"] == "bearer"
    body = operations["POST /v2/dbInstances"]["requestBody"]["content"]["application/json"]["schema"]
    assert Draft202012Validator(body).is_valid({"name": "A name", "databaseTemplate": "Sample"})
    assert not Draft202012Validator(body).is_valid({"name": "A name", "databaseTemplate": "sample"})
    assert not Draft202012Validator(body).is_valid({"name": "A name"})


async def test_documentation_is_a_page_when_anybody_asks(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/docs")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
