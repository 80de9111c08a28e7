"""Signing in to the console over TLS: its cookies, and the secret as it was typed."""

import re
from collections.abc import AsyncIterator
from html import unescape

import httpx
import pytest
from fastapi import FastAPI

from tests.secret_search import as_secret

CLIENT, SECRET = "a-person", as_secret("A-secret-that-ends-with-a-blank-1! ")


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that comes over TLS; there is a client."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://ods.example.org") as browser:
        form = {"ClientId": CLIENT, "ClientSecret": SECRET, "DisplayName": CLIENT}
        assert (await browser.post("/connect/register", data=form)).is_success
        yield browser


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]*)"', page.text)
    assert found
    return unescape(found[1])


async def sign_in(browser: httpx.AsyncClient, secret: str) -> httpx.Response:
    token = token_of(await browser.get("/console/sign-in"))
    return await browser.post(
        "/console/sign-in", data={"csrf": token, "client_id": CLIENT, "client_secret": secret}
    )


async def test_every_cookie_is_for_this_host_alone_when_the_browser_comes_over_tls(
    browser: httpx.AsyncClient,
) -> None:
    assert (await sign_in(browser, SECRET)).status_code == 303
    token = token_of(await browser.get("/console/instances"))
    chosen = await browser.post("/console/theme", data={"csrf": token, "theme": "dark", "back": "/jobs"})
    assert chosen.status_code == 303
    assert chosen.headers["Set-Cookie"].startswith("__Host-")
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(chosen.headers["Set-Cookie"].split("; "))
    assert len(browser.cookies) == 3
    assert all(name.startswith("__Host-") for name in browser.cookies)
    assert 'data-theme="dark"' in (await browser.get("/console/jobs")).text


async def test_secret_counts_as_it_was_typed_when_it_ends_with_a_blank(browser: httpx.AsyncClient) -> None:
    assert (await sign_in(browser, SECRET.strip())).status_code == 401
    assert (await sign_in(browser, SECRET)).status_code == 303
