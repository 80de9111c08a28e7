"""The page *Sessions* of the console, and what ends a session."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from html import unescape

import asyncpg
import httpx
import pytest

from ods.embedded.polling import wait_until
from ods.registry.clients.administration import ClientAdministration, NewClient
from ods.registry.clients.credentials import ClientScope
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests.api.service import NOBODY, running
from tests.secret_search import as_secret
from tests.servers import session

ADMINISTRATOR, READER = "an-administrator", "a-reader"
SECRET = as_secret("A-secret-of-32-characters-or-more-1!")
ENDED = re.compile(r'action="(/console/sessions/[^"]+/end)"')


class Browsers:
    """Browsers at one console."""

    def __init__(self, app: object, stack: AsyncExitStack) -> None:
        self._app = app
        self._stack = stack

    async def signed_in(self, client: str, address: str) -> httpx.AsyncClient:
        """Another browser, in which the client is signed in."""
        transport = httpx.ASGITransport(self._app, client=(address, 1))  # type: ignore[arg-type] # an application
        browser = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
        )
        await sign_in(browser, client)
        return browser


def field_of(page: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found, name
    return unescape(found[1])


async def sign_in(browser: httpx.AsyncClient, client: str) -> None:
    page = await browser.get("/console/sign-in")
    form = {"csrf": field_of(page, "csrf"), "client_id": client, "client_secret": SECRET}
    assert (await browser.post("/console/sign-in", data=form)).status_code == 303


async def is_signed_in(browser: httpx.AsyncClient) -> bool:
    return (await browser.get("/console/jobs")).status_code == 200


async def end(browser: httpx.AsyncClient, action: str, token: str | None = None) -> httpx.Response:
    page = await browser.get("/console/sessions")
    return await browser.post(action, data={"csrf": token or field_of(page, "csrf")})


@pytest.fixture
async def browsers(settings: Settings) -> AsyncIterator[Browsers]:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(settings, NOBODY))
        services = next(iter(app.state.tenancy))
        for client, scope in ((ADMINISTRATOR, ClientScope.FULL_ACCESS), (READER, ClientScope.READ_ONLY)):
            await add(settings, client, scope, await services.clients.hash(SECRET))
        yield Browsers(app, stack)


async def add(settings: Settings, client: str, scope: ClientScope, secret_hash: str) -> None:
    engine = create_registry_engine(settings.admin_dsn.get_secret_value())
    await ClientAdministration(engine, "operator@host", shared=False).add(
        NewClient(client, client, scope), secret_hash
    )
    await engine.dispose()


async def test_the_earlier_session_ends_when_the_browser_signs_in_again(browsers: Browsers) -> None:
    browser = await browsers.signed_in(READER, "192.0.2.1")
    other = await browsers.signed_in(READER, "192.0.2.2")
    before = dict(browser.cookies.items())
    await sign_in(browser, ADMINISTRATOR)
    assert await is_signed_in(browser)
    browser.cookies.update(before)
    assert not await is_signed_in(browser)
    assert await is_signed_in(other)


async def test_a_client_that_may_only_read_sees_and_ends_its_own_sessions(browsers: Browsers) -> None:
    administrator = await browsers.signed_in(ADMINISTRATOR, "192.0.2.1")
    here, there = [await browsers.signed_in(READER, f"192.0.2.{number}") for number in (2, 3)]
    page = await here.get("/console/sessions")
    assert ADMINISTRATOR not in page.text
    assert page.text.count("(this one)") == 1
    assert "192.0.2.2" in page.text
    assert "192.0.2.3" in page.text
    alone = await browsers_own_page(administrator)
    others = next(action for action in alone if action not in ENDED.findall(page.text))
    assert (await end(here, others)).status_code == 404
    assert await is_signed_in(administrator)
    assert (await end(here, f"/console/sessions/{'0' * 8}-0000-0000-0000-{'0' * 12}/end")).status_code == 404
    for action in ENDED.findall(page.text):
        assert (await end(here, action, field_of(page, "csrf"))).status_code == 303
    assert not await is_signed_in(here)
    assert not await is_signed_in(there)


async def browsers_own_page(browser: httpx.AsyncClient) -> list[str]:
    return ENDED.findall((await browser.get("/console/sessions")).text)


async def test_a_client_with_full_access_ends_the_sessions_of_others_and_the_trail_tells(
    browsers: Browsers, settings: Settings
) -> None:
    administrator = await browsers.signed_in(ADMINISTRATOR, "192.0.2.1")
    reader = await browsers.signed_in(READER, "192.0.2.2")
    (action,) = await browsers_own_page(reader)
    assert action in await browsers_own_page(administrator)
    assert (await administrator.post(action, data={"csrf": "0" * 64})).status_code == 403
    assert await is_signed_in(reader)
    assert (await end(administrator, action)).headers["Location"] == "/console/sessions"
    assert not await is_signed_in(reader)
    assert await is_signed_in(administrator)

    async def is_audited() -> bool:
        async with session(settings.admin_dsn.get_secret_value()) as registry:
            return bool(await audited(registry, action))

    await wait_until(is_audited, 10)  # it is written after the answer


async def audited(registry: asyncpg.Connection, action: str) -> int:
    query = "SELECT count(*) FROM adminapi.audit WHERE client = $1 AND path = $2 AND status = 303"
    found: int = await registry.fetchval(query, ADMINISTRATOR, action)
    return found


GUARDED = [
    *("/clients/new", "/clients/rotate?client=a-reader", "/clients/enable?client=a-reader"),
    *("/clients/let-download?client=a-reader", "/sessions"),
]


async def age_sessions(settings: Settings) -> None:
    """Sixteen minutes pass in which the sessions are used."""
    async with session(settings.admin_dsn.get_secret_value()) as registry:
        await registry.execute(
            "UPDATE adminapi.consolesessions SET createdat = createdat - interval '16 minutes'"
        )


@pytest.mark.parametrize("path", GUARDED)
async def test_client_must_sign_in_again_when_it_changes_who_may_sign_in_later(
    browsers: Browsers, settings: Settings, path: str
) -> None:
    browser = await browsers.signed_in(ADMINISTRATOR, "192.0.2.1")
    page = await browser.get(f"/console{path}")
    assert page.status_code == 200
    await age_sessions(settings)
    form = {"csrf": field_of(page, "csrf"), "name": "typed"}
    refused = await browser.get(f"/console{path}")
    assert refused.headers["Location"].startswith("/console/sign-in?after=")
    sent = await browser.post(f"/console{path}", data=form)
    assert sent.status_code == (405 if path == "/sessions" else 401)
    assert await is_signed_in(browser)
    asked = await browser.get(refused.headers["Location"])
    assert "Sign in again" in asked.text
    again = {name: field_of(asked, name) for name in ("csrf", "after", "again")}
    answer = await browser.post(
        "/console/sign-in", data={**again, "client_id": ADMINISTRATOR, "client_secret": SECRET}
    )
    assert (await browser.get(answer.headers["Location"])).status_code == 200


async def test_no_session_of_others_is_ended_when_the_own_one_is_old(
    browsers: Browsers, settings: Settings
) -> None:
    administrator = await browsers.signed_in(ADMINISTRATOR, "192.0.2.1")
    reader = await browsers.signed_in(READER, "192.0.2.2")
    (action,) = await browsers_own_page(reader)
    token = field_of(await administrator.get("/console/sessions"), "csrf")
    await age_sessions(settings)
    assert (await administrator.post(action, data={"csrf": token})).status_code == 303
    assert await is_signed_in(reader)
