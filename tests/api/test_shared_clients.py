"""Clients that this service and an Admin API share: who downloads backups, and whose secrets both verify."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from html import unescape

import asyncpg
import httpx
import pytest

from api.security.tokens import FULL_ACCESS
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from ods.settings.settings import Settings
from tests import preloaded
from tests.admin_api import hashed
from tests.api.admin_api_tokens import admin_api_settings
from tests.api.service import NOBODY, running
from tests.api.test_clients import log_in
from tests.api.test_console_sessions import SECRET, Browsers, field_of
from tests.servers import environment, make_settings, session

CLIENT, ARCHIVE = "of-an-admin-api", "archive"
HASH = "SELECT clientsecret FROM adminapi.applications WHERE clientid = $1"

Rotated = Callable[[httpx.AsyncClient, Settings], Awaitable[str]]
"""Gives the client another secret, and returns it."""


@pytest.fixture
def settings(prepared_postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    changes = {"rate_limiting": False, "registration": True}
    return make_settings(prepared_postgres, registry_dsn, **admin_api_settings(**changes))


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The registry, to which an Admin API has added a client; another one may download."""
    async with session(registry_dsn) as connection:
        await connection.execute(
            "INSERT INTO adminapi.applications (clientid, clientsecret, backupdownload)"
            " VALUES ($1, $3, NULL), ($2, $3, true)",
            *(CLIENT, ARCHIVE, hashed(SECRET)),
        )
        yield connection


@pytest.fixture
async def browsers(settings: Settings, rows: asyncpg.Connection) -> AsyncIterator[Browsers]:
    async with AsyncExitStack() as stack:
        yield Browsers(await stack.enter_async_context(running(settings, NOBODY)), stack)


@pytest.fixture
async def browser(browsers: Browsers) -> httpx.AsyncClient:
    """In which the Admin API's client is signed in."""
    return await browsers.signed_in(CLIENT, "192.0.2.1")


FORMS = {
    "let-download": {"client": CLIENT},
    "rotate": {"client": ARCHIVE},
    "new": {"client": "another", "scope": "read_only", "download": "on"},
}


@pytest.mark.parametrize("form", FORMS)
async def test_client_of_an_admin_api_gives_downloads_to_nobody_on_the_console(
    browser: httpx.AsyncClient, rows: asyncpg.Connection, form: str
) -> None:
    query = "SELECT clientid, clientsecret, backupdownload FROM adminapi.applications ORDER BY clientid"
    before = await rows.fetch(query)
    csrf = field_of(await browser.get("/console/clients/new"), "csrf")
    address = f"/console/clients/{form}"
    client = {"client": FORMS[form]["client"]}
    answer = await browser.post(address, params=client, data={"csrf": csrf, **FORMS[form]})
    assert answer.status_code == 403
    assert "This client may download no backups" in answer.text
    assert await rows.fetch(query) == before


async def test_token_is_without_downloads_when_no_operator_has_said_that_its_client_may(
    browser: httpx.AsyncClient,
) -> None:
    answers = [await log_in(browser, client, SECRET, FULL_ACCESS) for client in (CLIENT, ARCHIVE)]
    assert [answer.json()["scope"] for answer in answers] == [
        FULL_ACCESS,
        f"{BACKUP_DOWNLOAD} {FULL_ACCESS}",
    ]


async def test_client_may_download_when_it_has_registered_here(browser: httpx.AsyncClient) -> None:
    form = {"ClientId": "ours", "ClientSecret": SECRET, "DisplayName": "Ours"}
    assert (await browser.post("/connect/register", data=form)).status_code == 200
    answer = await log_in(browser, "ours", SECRET, FULL_ACCESS)
    assert answer.json()["scope"] == f"{BACKUP_DOWNLOAD} {FULL_ACCESS}"


async def rotated_on_the_console(browser: httpx.AsyncClient, _: Settings) -> str:
    page = await browser.get("/console/clients/rotate", params={"client": CLIENT})
    form = {name: field_of(page, name) for name in ("csrf", "generation")}
    answer = await browser.post("/console/clients/rotate", params={"client": CLIENT}, data=form)
    found = re.search("data-once>([^<]+)<", answer.text)
    assert found
    return unescape(found[1])


async def rotated_at_the_command_line(_: httpx.AsyncClient, settings: Settings) -> str:
    command = ("client", "rotate", CLIENT, "--json")
    run = await asyncio.to_thread(preloaded.run, "ods.cli", *command, env=environment(settings))
    assert run.returncode == 0, run.stderr
    secret: str = json.loads(run.stdout)["clientSecret"]
    return secret


@pytest.mark.parametrize("rotated", [rotated_on_the_console, rotated_at_the_command_line])
async def test_both_services_verify_the_new_secret_when_a_client_is_rotated(
    browser: httpx.AsyncClient, settings: Settings, rows: asyncpg.Connection, rotated: Rotated
) -> None:
    secret = await rotated(browser, settings)
    for _ in range(2):  # also once this service has verified it
        assert is_verified_by_the_admin_api(secret, await rows.fetchval(HASH, CLIENT))
        assert (await log_in(browser, CLIENT, secret, FULL_ACCESS)).status_code == 200
    assert (await log_in(browser, CLIENT, SECRET, FULL_ACCESS)).status_code == 401
    assert not is_verified_by_the_admin_api(SECRET, await rows.fetchval(HASH, CLIENT))


def is_verified_by_the_admin_api(secret: str, stored: str) -> bool:
    return stored.startswith("AQAAAAE") and hashed(secret, stored) == stored
