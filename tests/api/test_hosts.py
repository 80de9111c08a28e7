"""Which names of hosts the service answers to."""

import logging

import httpx
import pytest

from api import app as entry
from ods.settings.settings import Settings
from tests.api import server
from tests.api.service import NOBODY, client_of, running
from tests.servers import environment

PATHS = ["/", "/health", "/docs", "/openapi.json", "/v2/dbInstances", "/v1/x", "/nowhere", "/connect/token"]
ALLOWED = "api.example.org, *.Apps.example.org,127.0.0.1,[::1]"


@pytest.fixture
def choosy(idle_settings: Settings) -> Settings:
    """Settings of an API that answers to some names only."""
    values = idle_settings.model_dump() | {"allowed_hosts": ALLOWED}
    return Settings(**values)


@pytest.mark.parametrize(
    "host",
    [
        *("api.example.org", "API.example.org:8000", "api.example.org.", "127.0.0.1:1", "[::1]", "[::1]:80"),
        *("a.apps.example.org", "a.b.apps.example.org:443"),
    ],
)
async def test_request_is_served_when_its_host_is_allowed(choosy: Settings, host: str) -> None:
    async with running(choosy, NOBODY) as app, client_of(app) as client:
        assert (await client.get("/", headers={"Host": host})).status_code == 200
        assert (await client.get("/v2/dbInstances", headers={"Host": host})).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "example.org",
            "apps.example.org",
            "xapi.example.org",
            "api.example.org.evil.example",
        ),
        *(
            "",
            ":80",
            "127.0.0.1.evil.example",
            "::1",
            "[::2]",
            "api.example.org:x",
            "api.example.org@evil",
            "*",
        ),
    ],
)
async def test_request_is_refused_when_its_host_is_not_allowed(choosy: Settings, host: str) -> None:
    async with running(choosy, NOBODY) as app, client_of(app) as client:
        for path in PATHS:
            for method in ("GET", "POST"):
                answer = await client.request(method, path, headers={"Host": host})
                assert answer.status_code == 400
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert answer.json() == {
                    "title": "This host is not served here",
                    "status": 400,
                    "detail": "Use a name that the operator allows (ODS_ALLOWED_HOSTS).",
                }


async def test_request_is_refused_when_it_names_no_host_or_forwards_one(choosy: Settings) -> None:
    async with server.serving(choosy, ODS_ALLOWED_HOSTS=ALLOWED) as serving:
        nameless = await serving.answer(b"GET / HTTP/1.0\r\n\r\n")
        forwarded = await serving.answer(
            b"GET / HTTP/1.0\r\nHost: evil.example\r\nX-Forwarded-Host: api.example.org\r\n\r\n"
        )
    assert nameless.startswith(b"HTTP/1.1 400 ")
    assert forwarded.startswith(b"HTTP/1.1 400 ")


async def test_any_host_is_served_when_none_is_set(idle_stranger: httpx.AsyncClient) -> None:
    for host in ("evil.example", "api.example.org:80", ""):
        assert (await idle_stranger.get("/", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(("hosts", "warnings"), [(None, 1), ("*", 0), (ALLOWED, 0)])
def test_warning_is_logged_at_start_when_any_host_is_served(
    idle_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hosts: str | None,
    warnings: int,
) -> None:
    for name, value in environment(idle_settings).items():
        monkeypatch.setenv(name, value)
    if hosts is not None:
        monkeypatch.setenv("ODS_ALLOWED_HOSTS", hosts)
    monkeypatch.setattr(entry, "_configure_logging", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        entry.create_app()
    assert caplog.text.count("ODS_ALLOWED_HOSTS is not set") == warnings
