"""A browser that looks at the console of an API in a process of its own, with workers behind it.

The pages are looked at as people do: by roles, labels and texts. A page that says something on the browser's
console, or asks another host for something, fails the test that has opened it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    async_playwright,
    expect,
)
from temporalio.client import Client

from ods.registry.clients.secret_hashes import SecretHasher
from ods.settings.settings import Settings
from tests.api.server import Server, serving
from tests.console.browser import ARGUMENTS, chromium
from tests.console.people import CLIENT, READER, SECRET, Person
from tests.servers import delete_schedules, environment, session
from worker import run

expect.set_options(timeout=15_000)

OpenContext = Callable[..., Awaitable[BrowserContext]]
Serve = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each has a profile of its own."""
    path = await asyncio.to_thread(chromium)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def secret_hash() -> str:
    return SecretHasher().hash(SECRET)


@pytest.fixture
async def clients(settings: Settings, secret_hash: str) -> None:
    """A client that may do everything, and one that may only read."""
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        await add_clients(connection, secret_hash)


async def add_clients(connection: asyncpg.Connection, secret_hash: str) -> None:
    for client, scope in ((CLIENT, "full_access"), (READER, "read_only")):
        await connection.execute(
            "INSERT INTO adminapi.applications (clientid, clientsecret, displayname, scope)"
            " VALUES ($1, $2, $1, $3)",
            *(client, secret_hash, scope),
        )


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """The registry, to look and to interfere."""
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        yield connection


@pytest.fixture
def temporal_address(temporal: Client) -> str:
    return temporal.service_client.config.target_host


@pytest.fixture
def serve(temporal_address: str) -> Serve:
    """Starts an API in a process of its own, which reaches Temporal."""

    @asynccontextmanager
    async def start(settings: Settings, *options: str, **changes: str) -> AsyncIterator[Server]:
        variables = {**environment(settings), "TEMPORAL_ADDRESS": temporal_address, **changes}
        async with serving(settings, *options, **variables) as server:
            yield server

    return start


@pytest.fixture
async def server(settings: Settings, clients: None, serve: Serve) -> AsyncIterator[Server]:
    """The API, without workers: jobs wait."""
    async with serve(settings) as server:
        yield server


@pytest.fixture
async def workers(settings: Settings, temporal: Client, temporal_address: str) -> AsyncIterator[None]:
    """Workers, which carry the jobs out."""
    stop = asyncio.Event()
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("TEMPORAL_ADDRESS", temporal_address)
        working = asyncio.create_task(run(settings, stop))
        try:
            yield
        finally:
            stop.set()
            try:
                await working
            finally:  # a later test has another installation, to which they do not belong
                await delete_schedules(temporal)


class Watch:
    """What a page says on the browser's console, and which hosts it asks beside those at `urls`."""

    def __init__(self, context: BrowserContext, urls: tuple[str, ...]) -> None:
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        self._urls = urls
        context.on("console", self._note)
        context.on("weberror", lambda error: self.said.append(str(error.error)))
        context.on("request", self._note_request)

    def _note(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((*self._urls, "data:")):
            self.elsewhere.append(request.url)


@pytest.fixture
def breakage() -> None:
    """Asked for by tests that cut connections or end sessions, about which the browser complains."""


@pytest.fixture
def other_sites() -> tuple[str, ...]:
    """Addresses of other sites that the console leads a person to: those of an issuer."""
    return ()


@pytest.fixture
async def open_context(
    browser: Browser, server: Server, other_sites: tuple[str, ...], request: pytest.FixtureRequest
) -> AsyncIterator[OpenContext]:
    """Opens profiles of the browser, each with its own cookies; in the end none may have said anything."""
    opened: list[tuple[BrowserContext, Watch]] = []

    async def start(**options: object) -> BrowserContext:
        url = str(options.setdefault("base_url", server.url))
        context = await browser.new_context(**options)  # type: ignore[arg-type]
        opened.append((context, Watch(context, (url, *other_sites))))
        return context

    yield start
    for context, watch in opened:
        await context.close()
        assert not watch.elsewhere
        if "breakage" not in request.fixturenames:
            assert not [text for text in watch.said if not _is_expected(text)]


def _is_expected(text: str) -> bool:
    """What is said of a page that was answered with an error, as the test wants it, or of a request replaced.

    htmx says the second of each request that a later one of the same form has replaced (`hx-sync`).
    """
    return "Failed to load resource: the server responded with a status of 4" in text or text == (
        "error: htmx:sendAbort"
    )


@pytest.fixture
async def page(open_context: OpenContext) -> Page:
    """A page of a browser in which no client is signed in."""
    return await (await open_context()).new_page()


@pytest.fixture
async def person(page: Page) -> Person:
    """A person whose client may do everything, signed in."""
    person = Person(page)
    await person.sign_in()
    return person
