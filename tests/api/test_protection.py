"""The headers by which browsers do nothing with what the API answers."""

from collections.abc import Mapping

import httpx
import pytest

from ods.settings.settings import Settings
from tests.api.server import ResponseModel, Server, serving

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
OVER_TLS = "Strict-Transport-Security"


def protecting(answer: httpx.Response) -> Mapping[str, str | None]:
    return {name: answer.headers.get(name) for name in HEADERS}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/dbInstances", 200),
        ("GET", "/v2/dbInstances/77", 404),
        ("PUT", "/v2/dbInstances", 405),
        ("POST", "/v2/dbInstances", 415),
        ("GET", "/v2/nowhere", 404),
        ("POST", "/connect/token", 401),
        ("POST", "/connect/register", 400),
    ],
)
async def test_answer_is_protected_whatever_it_is(
    api: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await api.request(method, path, content=b"{" if path == "/v2/dbInstances" else None)
    assert answer.status_code == status
    assert protecting(answer) == HEADERS
    assert OVER_TLS not in answer.headers


async def test_answer_is_protected_when_the_token_is_missing(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/v2/dbInstances")
    assert (answer.status_code, protecting(answer)) == (401, HEADERS)


async def test_answer_is_protected_when_the_request_is_no_http(contract: Server) -> None:
    answer = ResponseModel.read(await contract.answer(b"GET / HTTP/1.1\r\n\r\n"))
    assert answer.status == 400
    assert {name: answer.headers.get(name.lower()) for name in HEADERS} == HEADERS


async def test_browsers_are_told_to_use_tls_when_a_trusted_proxy_says_that_the_request_came_by_it(
    settings: Settings,
) -> None:
    forwarded = {"X-Forwarded-Proto": "https"}
    async with httpx.AsyncClient(headers=forwarded, trust_env=False) as client:
        async with serving(settings, "--forwarded-allow-ips", "127.0.0.1") as server:
            answer = await client.get(f"{server.url}/v2/dbInstances")
            assert answer.headers[OVER_TLS] == "max-age=31536000; includeSubDomains"
        async with serving(settings, "--forwarded-allow-ips", "192.0.2.1") as server:
            answer = await client.get(f"{server.url}/v2/dbInstances")
            assert OVER_TLS not in answer.headers


async def test_page_of_the_documentation_keeps_its_policy_when_it_is_asked_for(
    idle_stranger: httpx.AsyncClient,
) -> None:
    page, script = await idle_stranger.get("/docs"), await idle_stranger.get("/docs/start.js")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert script.headers["Cache-Control"] == "public, max-age=86400"
    assert {answer.headers["X-Content-Type-Options"] for answer in (page, script)} == {"nosniff"}
