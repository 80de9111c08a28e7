"""Links that sign in once, within five minutes, on the machine of the API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import httpx
import pytest
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.clients.administration import ClientNotFoundError
from ods.registry.sign_in_links import SignInLinks, address_of
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api.server import Server
from tests.console.conftest import Serve
from tests.console.people import CLIENT, READER, Person

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@pytest.fixture
async def links(settings: Settings) -> AsyncIterator[SignInLinks]:
    engine: AsyncEngine = create_registry_engine(settings.admin_dsn.get_secret_value())
    yield SignInLinks(engine)
    await engine.dispose()


@pytest.fixture
async def link(server: Server, links: SignInLinks) -> str:
    """A link for the client that may do everything."""
    return address_of(server.url, DEFAULT_TENANT, await links.create(CLIENT))


async def follow(link: str, headers: Mapping[str, str] = {}) -> httpx.Response:
    """Follow the link with another program, which has no cookies."""
    async with httpx.AsyncClient(headers=headers) as client:
        return await client.get(link)


async def test_a_person_is_signed_in_when_the_link_is_new(page: Page, link: str) -> None:
    await page.goto(link)
    await Person(page).sees_heading("Instances")
    await expect(page.get_by_text(CLIENT)).to_be_visible()
    assert link.partition("=")[2] not in page.url


async def test_no_line_of_the_log_has_the_secret_when_a_link_is_followed(server: Server, link: str) -> None:
    secret = link.rpartition(".")[2]
    answers = [await follow(link), await follow(link), await follow(link.replace("sign-in", "signin"))]
    log = await server.stop()
    assert [answer.status_code for answer in answers] == [303, 401, 303]
    assert log.count('"GET /console/sign-in/link HTTP/1.1"') == 2
    assert secret not in log


async def test_the_page_says_why_when_the_link_was_used_before(page: Page, link: str) -> None:
    assert (await follow(link)).status_code == 303
    await page.goto(link)
    await Person(page).sees_heading("Sign in")
    await expect(page.get_by_role("alert")).to_contain_text("was used before")


async def test_one_is_signed_in_when_two_follow_the_link_at_once(link: str) -> None:
    answers = await asyncio.gather(*(follow(link) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [303, *[401] * 7]


@pytest.mark.parametrize(("minutes", "status"), [(4, 303), (5, 401)])
async def test_the_link_counts_for_five_minutes_when_it_is_followed_late(
    link: str, registry: asyncpg.Connection, minutes: int, status: int
) -> None:
    await registry.execute(
        "UPDATE adminapi.signinlinks SET createdat = createdat - make_interval(mins => $1)", minutes
    )
    assert (await follow(link)).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "ods.example.org"},
        {"X-Forwarded-For": "192.0.2.7"},
        {"Forwarded": "for=192.0.2.7"},
        {"X-Forwarded-Host": "ods.example.org"},
    ],
)
async def test_the_link_counts_on_the_machine_alone_when_it_is_followed_from_elsewhere(
    link: str, headers: Mapping[str, str]
) -> None:
    answer = await follow(link, headers)
    assert answer.status_code == 403
    assert "counts only on the machine of the service" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert (await follow(link)).status_code == 303  # it was not used


async def test_no_link_counts_when_another_issuer_has_the_clients(
    settings: Settings, clients: None, serve: Serve, links: SignInLinks
) -> None:
    issuer = {"ODS_OIDC_ISSUER": "https://issuer.example.org"}
    async with serve(settings, **issuer) as server:
        answer = await follow(address_of(server.url, DEFAULT_TENANT, await links.create(CLIENT)))
    assert answer.status_code == 403
    assert "takes its tokens from another issuer" in answer.text


async def test_no_link_counts_when_it_was_never_made(server: Server) -> None:
    for secret in ("", "x", "\x00", "é"):
        link = f"{server.url}/console/sign-in/link"
        async with httpx.AsyncClient() as client:
            answer = await client.get(link, params={"with": f"{DEFAULT_TENANT}.{secret}"})
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("column", "value"), [("enabled", False), ("generation", uuid4()), ("expiresat", LONG_AGO)]
)
async def test_the_link_counts_no_more_when_its_client_was_disabled_or_rotated(
    link: str, registry: asyncpg.Connection, column: str, value: object
) -> None:
    await registry.execute(
        f"UPDATE adminapi.applications SET {column} = $1 WHERE clientid = $2",  # noqa: S608 - a constant
        *(value, CLIENT),
    )
    assert (await follow(link)).status_code == 401


async def test_no_link_is_made_when_there_is_no_such_client(links: SignInLinks) -> None:
    with pytest.raises(ClientNotFoundError):
        await links.create("unknown")


async def test_a_person_may_only_read_when_the_client_of_the_link_may(
    page: Page, server: Server, links: SignInLinks
) -> None:
    await page.goto(address_of(server.url, DEFAULT_TENANT, await links.create(READER)))
    await expect(page.get_by_text("read only")).to_be_visible()


async def test_the_secret_is_in_neither_registry_nor_trail_when_the_link_was_made_and_used(
    link: str, registry: asyncpg.Connection
) -> None:
    secret = link.rpartition(".")[2]
    (row,) = await registry.fetch("SELECT * FROM adminapi.signinlinks")
    assert secret.encode() not in row["digest"]
    await follow(link)
    assert not await registry.fetch("SELECT * FROM adminapi.signinlinks")
    (entry,) = await registry.fetch("SELECT client, path, status FROM adminapi.audit")
    assert tuple(entry) == (CLIENT, "/console/sign-in/link", 303)
