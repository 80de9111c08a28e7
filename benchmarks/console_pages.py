"""Open pages of the console, as its server sees them: each has a stream, and fetches what has changed.

Browsers have machines of their own. So these take as little of this one as they can: aiohttp takes a tenth of
what httpx does.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from html import unescape
from typing import Self

import aiohttp
from yarl import URL

from ods.embedded.console_link import console_link_of
from ods.embedded.data_folder import StackFile

_APART_SECONDS = 1
"""A page fetches an element at most so often (`ods/console/static/console.js`)."""
_EVERYTHING = "*"
_STREAM = {"Accept": "text/event-stream"}
_FETCH = {"HX-Request": "true", "Console-Live": "1"}
_IDLE_SECONDS = 2
"""A connection is reused within this time only: after five seconds, uvicorn closes it."""
_LARGEST_LINE = 2**20
"""Bytes of the stream."""
_LIVE = 'data-live="'
_ATTRIBUTE = re.compile(r'([a-z-]+)="([^"]*)"')


class Browsers:
    """Browsers, each signed in with a session of its own."""

    def __init__(self, http: aiohttp.ClientSession, cookies: Sequence[str]) -> None:
        self._http = http
        self._cookies = cookies

    @classmethod
    @asynccontextmanager
    async def signed_in(cls, stack: StackFile, number: int) -> AsyncIterator[Self]:
        """So many browsers."""
        async with aiohttp.ClientSession(
            stack["api"]["url"],
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            raise_for_status=True,
            read_bufsize=_LARGEST_LINE,
            timeout=aiohttp.ClientTimeout(),
        ) as http:
            yield cls(http, [await _sign_in(stack, http) for _ in range(number)])

    @asynccontextmanager
    async def open(self, paths: Sequence[str]) -> AsyncIterator[None]:
        """Each path is open in one of the browsers while the body runs."""
        pages = [OpenPage(self._http, *one) for one in zip(self._cookies, paths, strict=False)]
        async with asyncio.TaskGroup() as group:
            staying = [group.create_task(page.stay_open()) for page in pages]
            await asyncio.gather(*(page.is_open.wait() for page in pages))
            yield
            for page in staying:
                page.cancel()


class OpenPage:
    """A page that is open in a browser."""

    def __init__(self, http: aiohttp.ClientSession, cookie: str, path: str) -> None:
        self.is_open = asyncio.Event()
        self._http = http
        self._cookie = {"Cookie": cookie}
        self._path = path
        self._topics: dict[str, frozenset[str]] = {}
        self._fetched: dict[str, float] = {}

    async def stay_open(self) -> None:
        """Read the stream, and fetch each element that shows what has changed."""
        await self._read(self._path, self._cookie)
        async with (
            asyncio.TaskGroup() as fetches,
            self._http.get("/console/live", headers=_STREAM | self._cookie) as stream,
        ):
            self.is_open.set()
            async for line in stream.content:
                if line.startswith(b"data: "):
                    self._refresh(frozenset(line.removeprefix(b"data: ").decode().split()), fetches)
        raise RuntimeError("The stream of an open page has ended.")

    def _refresh(self, changed: frozenset[str], fetches: asyncio.TaskGroup) -> None:
        now = time.perf_counter()
        for address, topics in self._topics.items():
            last = self._fetched.get(address, 0)
            if last <= now and (_EVERYTHING in changed or topics & changed):
                at = self._fetched[address] = max(last + _APART_SECONDS, now)
                fetches.create_task(self._fetch(address, at - now))

    async def _fetch(self, address: str, wait: float) -> None:
        await asyncio.sleep(wait)
        await self._read(address, _FETCH | self._cookie)

    async def _read(self, address: str, headers: Mapping[str, str]) -> None:
        async with self._http.get(URL(address, encoded=True), headers=headers) as answer:
            self._topics |= dict(_elements(await answer.text()))


def _elements(html: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The address that each element which keeps itself current is fetched from, and its topics."""
    # Not by a parser of HTML: it would take a processor.
    at = html.find(_LIVE)
    while at >= 0:
        end = html.index(">", at)
        found = dict(_ATTRIBUTE.findall(html, html.rindex("<", 0, at), end))
        if "hx-get" in found:
            yield unescape(found["hx-get"]), frozenset(unescape(found["data-live"]).split())
        at = html.find(_LIVE, end)


async def _sign_in(stack: StackFile, http: aiohttp.ClientSession) -> str:
    """The cookie of a new session."""
    link = await console_link_of(stack["postgres"]["admin_dsn"], stack["api"]["url"], stack["client"]["id"])
    async with http.get(link, allow_redirects=False) as answer:
        ((name, cookie),) = answer.cookies.items()
        return f"{name}={cookie.value}"
