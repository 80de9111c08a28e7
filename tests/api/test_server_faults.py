"""What each endpoint that needs the server of the ODS databases answers while that server cannot serve."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running
from tests.postgres.instance_states import bring_to
from tests.servers import make_settings, service_dsn

ENDPOINTS = [
    ("GET", "/v2/dbInstances/{instance}/database"),
    ("POST", "/v2/dbInstances/{instance}/adopt"),
    ("GET", "/v2/drift"),
    ("GET", "/v2/recovery"),
    ("POST", "/v2/recovery"),
    ("GET", "/v2/spares"),
]


@pytest.fixture
async def instance(instances: InstanceStore, job_store: JobStore, name: str) -> int:
    """The id of a completed instance."""
    return (await bring_to(instances, job_store, "Completed", name)).instance_id


@asynccontextmanager
async def client_with(
    postgres: EmbeddedPostgres, registry: str, server: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose ODS databases are on `server`."""
    settings = make_settings(postgres, registry, master_dsn=server)
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_endpoint_is_unavailable_for_now_when_the_server_is_away(
    postgres: EmbeddedPostgres, registry_dsn: str, instance: int, method: str, path: str
) -> None:
    async with client_with(postgres, registry_dsn, f"postgresql://ods@{NOBODY}/postgres") as client:
        answer = await client.request(method, path.format(instance=instance))

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "title": "The PostgreSQL server of the ODS databases cannot be reached.",
        "status": 503,
        "detail": "Try again in a few seconds.",
    }


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_endpoint_tells_the_reason_when_only_a_person_can_mend_the_server(
    postgres: EmbeddedPostgres, registry_dsn: str, instance: int, method: str, path: str
) -> None:
    without_database = service_dsn(postgres, "a_database_that_does_not_exist")
    async with client_with(postgres, registry_dsn, without_database) as client:
        answer = await client.request(method, path.format(instance=instance))

    assert answer.status_code == 409
    assert "Retry-After" not in answer.headers
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "title": "The server of the ODS databases refuses",
        "status": 409,
        "detail": "PostgreSQL refused the step with SQLSTATE 3D000. Its log tells more.",
    }


async def test_both_answers_are_documented_when_an_endpoint_needs_the_server(settings: Settings) -> None:
    async with running(settings, NOBODY) as app:
        paths = app.openapi()["paths"]

    for method, path in ENDPOINTS:
        responses = paths[path.replace("{instance}", "{instance_id}")][method.lower()]["responses"]
        for status in ("409", "503"):
            assert "application/problem+json" in responses[status]["content"], (path, status)
