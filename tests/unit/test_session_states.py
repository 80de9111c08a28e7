"""How often the table is asked for the sessions of open pages."""

import asyncio
from collections.abc import Collection, Mapping
from http import HTTPStatus

import pytest
from starlette.requests import HTTPConnection

from api.http.problems import ProblemError
from api.security.session_states import SessionStates
from ods.registry.console_sessions import Identity, OpenSession

SESSION = OpenSession(Identity("a-client", None, None), None, use_is_noted=True)
REQUEST = HTTPConnection({"type": "http"})


class SessionTable:
    """A table and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[Collection[bytes]] = []
        self.open: Collection[bytes] = [b"1", b"2", b"3"]
        self.is_away = False
        self.admitted = 100
        self.states = SessionStates(self.ask, self.ask_all, self.admit, lambda: self.now)

    async def ask(self, digest: bytes) -> OpenSession | None:
        return (await self.ask_all([digest])).get(digest)

    async def ask_all(self, digests: Collection[bytes]) -> Mapping[bytes, OpenSession]:
        self.asked.append(digests)
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionRefusedError
        return {digest: SESSION for digest in digests if digest in self.open}

    def admit(self, _: HTTPConnection) -> None:
        self.admitted -= 1
        if self.admitted < 0:
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "Too many")

    async def find(self, *digests: bytes) -> list[OpenSession | None]:
        return await asyncio.gather(*(self.states.find(REQUEST, digest) for digest in digests))


async def test_registry_is_asked_once_for_all_sessions_when_many_pages_are_open() -> None:
    table = SessionTable()
    assert await table.find(b"1", b"2") == [SESSION, SESSION]
    table.now += 2.9
    assert await table.find(b"1", b"2") == [SESSION, SESSION]
    assert table.asked == [[b"1"], [b"2"]]
    table.now += 0.2
    table.open = [b"2"]
    assert await table.find(b"1", b"2") == [None, SESSION]
    assert table.asked[2:] == [{b"1", b"2"}]


async def test_a_session_is_watched_only_when_it_exists() -> None:
    table = SessionTable()
    assert await table.find(b"1", b"unknown") == [SESSION, None]
    assert await table.find(b"unknown") == [None]
    assert len(table.states) == 1
    table.now += 4
    assert await table.find(b"1") == [SESSION]
    assert table.asked[-1] == {b"1"}


async def test_a_session_that_is_watched_is_found_when_its_address_may_ask_for_unknown_ones_no_more() -> None:
    table = SessionTable()
    await table.find(b"1")
    table.admitted = 0
    with pytest.raises(ProblemError, match="Too many"):
        await table.find(b"2")
    table.now += 4
    assert await table.find(b"1") == [SESSION]


async def test_a_session_is_asked_for_no_more_when_its_pages_are_closed() -> None:
    table = SessionTable()
    await table.find(b"1", b"2")
    table.now += 20
    await table.find(b"2")
    table.now += 20
    await table.find(b"2")
    assert table.asked[-1] == {b"2"}
    table.now += 40
    await table.find(b"3")
    assert len(table.states) == 1


async def test_a_session_is_not_found_again_when_it_was_ended_here() -> None:
    table = SessionTable()
    await table.find(b"1", b"2")
    table.open = [b"2"]
    table.now += 4
    again = asyncio.create_task(table.find(b"1"))
    while len(table.asked) < 3:
        await asyncio.sleep(0)
    table.states.forget(b"1")
    assert await again == [None]
    assert await table.states.find_again(b"1") is None
    assert await table.find(b"1") == [None]


async def test_every_page_is_told_when_the_registry_is_away() -> None:
    table = SessionTable()
    await table.find(b"1")
    table.now += 4
    table.is_away = True
    for digest in (b"1", b"2"):
        with pytest.raises(ConnectionRefusedError):
            await table.find(digest)
    table.is_away = False
    assert await table.find(b"1", b"2") == [SESSION, SESSION]
