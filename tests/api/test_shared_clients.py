"""Clients that this service and an Admin API share: who downloads backups, and whose secrets both verify."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import httpx
import pytest

from api.security.tokens import FULL_ACCESS
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from tests.admin_api import hashed
from tests.api.admin_api_tokens import admin_api_settings
from tests.api.service import NOBODY, running
from tests.api.test_clients import log_in
from tests.api.test_console_sessions import SECRET, Browsers, field_of
from tests.servers import make_settings, session

CLIENT, ARCHIVE = "of-an-admin-api", "archive"


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
async def browsers(
    prepared_postgres: EmbeddedPostgres, registry_dsn: str, rows: asyncpg.Connection
) -> AsyncIterator[Browsers]:
    settings = make_settings(
        prepared_postgres, registry_dsn, rate_limiting=False, registration=True, **admin_api_settings()
    )
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
