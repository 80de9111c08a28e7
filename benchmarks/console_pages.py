"""Open pages of the console, as its server sees them: each has a stream, and fetches what has changed."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from html import unescape
from typing import Self

import httpx

from embedded.console_link import console_link_of
from embedded.data_folder import StackFile

_APART_SECONDS = 1
"""A page fetches an element at most so often (`console/static/console.js`)."""
_EVERYTHING = "*"
_STREAM = {"Accept": "text/event-stream"}
_FETCH = {"HX-Request": "true", "Console-Live": "1"}
_TIMEOUT = httpx.Timeout(60)
_LIVE_TAG = re.compile(r'<([a-z]+\s[^>]*\bdata-live="[^>]*)>')
_ATTRIBUTE = re.compile(r'([a-z-]+)="([^"]*)"')


class Browsers:
    """Browsers, each signed in with a session of its own."""

    def __init__(self, http: httpx.AsyncClient, cookies: Sequence[str]) -> None:
        self._http = http
        self._cookies = cookies

    @classmethod
    @asynccontextmanager
    async def signed_in(cls, stack: StackFile, number: int) -> AsyncIterator[Self]:
        """So many browsers."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
        async with httpx.AsyncClient(
            base_url=stack["api"]["url"], limits=limits, timeout=_TIMEOUT, trust_env=False
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

    def __init__(self, http: httpx.AsyncClient, cookie: str, path: str) -> None:
        self.is_open = asyncio.Event()
        self._http = http
        self._cookie = {"Cookie": cookie}
        self._path = path
        self._topics: dict[str, frozenset[str]] = {}
        self._fetched: dict[str, float] = {}

    async def stay_open(self) -> None:
        """Read the stream, and fetch each element that shows what has changed."""
        self._read((await self._http.get(self._path, headers=self._cookie)).raise_for_status())
        headers = _STREAM | self._cookie
        async with (
            asyncio.TaskGroup() as fetches,
            self._http.stream("GET", "/console/live", headers=headers, timeout=None) as stream,
        ):
            stream.raise_for_status()
            self.is_open.set()
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    spread, *topics = line.removeprefix("data: ").split()
                    self._refresh(frozenset(topics), float(spread) / 1000, fetches)
        raise RuntimeError("The stream of an open page has ended.")

    def _refresh(self, changed: frozenset[str], spread: float, fetches: asyncio.TaskGroup) -> None:
        now = time.perf_counter()
        for address, topics in self._topics.items():
            last = self._fetched.get(address, 0)
            if last <= now and (_EVERYTHING in changed or topics & changed):
                again, first = random.uniform(0, 10 * spread), random.uniform(0, spread)  # noqa: S311 - no secrets
                at = max(last + _APART_SECONDS + again, now + first)
                self._fetched[address] = at
                fetches.create_task(self._fetch(address, at - now))

    async def _fetch(self, address: str, wait: float) -> None:
        await asyncio.sleep(wait)
        self._read((await self._http.get(address, headers=_FETCH | self._cookie)).raise_for_status())

    def _read(self, answer: httpx.Response) -> None:
        self._topics |= dict(_elements(answer.text))


def _elements(html: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The address that each element which keeps itself current is fetched from, and its topics."""
    # Not by a parser of HTML: it would take a processor, which browsers have on machines of their own.
    for tag in _LIVE_TAG.findall(html):
        found = dict(_ATTRIBUTE.findall(tag))
        if "hx-get" in found:
            yield unescape(found["hx-get"]), frozenset(unescape(found["data-live"]).split())


async def _sign_in(stack: StackFile, http: httpx.AsyncClient) -> str:
    """The cookie of a new session."""
    answer = await http.get(
        await console_link_of(stack["postgres"]["admin_dsn"], stack["api"]["url"], stack["client"]["id"])
    )
    (cookie,) = answer.cookies.items()
    http.cookies.clear()
    return "=".join(cookie)
