import logging
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from ods.observability.logs import RedactingFormatter
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import SERVICE_PASSWORD, session

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
INSTANCES = "/v2/dbInstances"
PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"{'name': 1}",
        b"\xff\xfe\xfa",
        b'"text"',
        b"[]",
        b"1",
        b"[" * 100_000,
        b'{"name": ' + b"9" * 5000 + b"}",
    ],
)
async def test_body_is_refused_when_it_is_no_json_object(idle_api: httpx.AsyncClient, content: bytes) -> None:
    answer = await idle_api.post(INSTANCES, content=content, headers=JSON)

    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["title"].startswith("The body ")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""]
)
async def test_content_type_is_refused_when_it_is_not_json(
    idle_api: httpx.AsyncClient, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    answer = await idle_api.post(INSTANCES, content=b'{"name": "x"}', headers=headers)

    assert answer.status_code == 415
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["status"] == 415


@pytest.mark.parametrize(
    "media_type",
    ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"],
)
async def test_content_type_is_accepted_when_it_is_a_kind_of_json(
    idle_api: httpx.AsyncClient, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    answer = await idle_api.post(INSTANCES, content=b"{}", headers=headers)

    assert answer.status_code == 400
    assert "Name" in answer.json()["errors"]


@pytest.mark.parametrize(("path", "headers"), [(INSTANCES, JSON), ("/connect/token", FORM)])
async def test_body_is_refused_when_it_is_huge(
    idle_api: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await idle_api.post(path, content=b" " * 2_000_000, headers=headers)

    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == PROBLEM


@pytest.mark.parametrize("path", ["/nowhere", "/v2x", "/v2/dbInstances/1/nothing", "/healthy"])
async def test_path_is_not_found_when_nothing_is_there(idle_api: httpx.AsyncClient, path: str) -> None:
    answer = await idle_api.get(path)

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json() == {"title": "Not Found", "status": 404}


@pytest.mark.parametrize("path", ["/", "/health", "/connect/token", INSTANCES])
async def test_verb_is_refused_when_the_path_has_others(idle_api: httpx.AsyncClient, path: str) -> None:
    answer = await idle_api.put(path)

    assert answer.status_code == 405
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.headers["Allow"]
    assert answer.json()["status"] == 405


REQUESTS = [
    ("GET", INSTANCES),
    ("POST", INSTANCES),
    ("GET", f"{INSTANCES}/1"),
    ("DELETE", f"{INSTANCES}/1"),
    ("POST", f"{INSTANCES}/1/retry"),
    ("GET", "/v2/odsInstances"),
    ("GET", "/v2/odsInstances/1"),
    ("GET", "/v2/jobs/CreateInstanceJob-1-1"),
]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://service:a-password@127.0.0.1:1/EdFi_Admin",
        "postgresql://service:a-password@nowhere.invalid/EdFi_Admin",
        "{registry}_that_is_gone",
        "{wrong_password}",
    ],
)
async def test_service_is_unavailable_when_the_registry_is_away(
    idle_settings: Settings, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = idle_settings.admin_dsn.get_secret_value()
    wrong_password = registry.replace(SERVICE_PASSWORD, "a-password")
    broken_dsn = SecretStr(dsn.format(registry=registry, wrong_password=wrong_password))
    broken = idle_settings.model_copy(update={"admin_dsn": broken_dsn})
    async with running(broken, NOBODY) as app, client_of(app, headers=bearer(broken)) as client:
        for method, path in REQUESTS:
            body = {"name": "x", "databaseTemplate": "Minimal"} if method == "POST" else None
            answer = await client.request(method, path, json=body)

            assert answer.status_code == 503
            assert answer.headers["Content-Type"] == PROBLEM
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["title"] == "The registry cannot be reached"
    logged = [record.getMessage() for record in caplog.records if record.name == "api.http.problems"]
    assert len(logged) == len(REQUESTS)
    assert "a-password" not in caplog.text


async def test_request_succeeds_when_the_registry_has_ended_the_connections_of_the_pool(
    api: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    assert (await api.get(INSTANCES)).status_code == 200
    await admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'EdFi_Admin_api'"
    )
    assert (await api.get(INSTANCES)).status_code == 200


@pytest.fixture
async def without_jobs(registry_dsn: str) -> AsyncIterator[None]:
    """A registry that lacks a table, which no code foresees."""
    async with session(registry_dsn) as connection:
        await connection.execute("ALTER TABLE adminapi.jobstatuses RENAME TO hidden")
        yield
        await connection.execute("ALTER TABLE adminapi.hidden RENAME TO jobstatuses")


@pytest.mark.usefixtures("without_jobs")
async def test_nothing_of_a_fault_is_told_when_it_was_not_foreseen(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await api.get("/v2/jobs/very-special-words")

    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json() == {
        "title": "Internal server error",
        "status": 500,
        "message": "The service met an unexpected fault. Its log tells more.",
    }
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    line = RedactingFormatter("%(message)s").format(record)
    assert line.startswith("GET /v2/jobs/{jobId} answered 500: ProgrammingError at ")
    assert "jobstatuses" not in line
    assert "very-special-words" not in line
