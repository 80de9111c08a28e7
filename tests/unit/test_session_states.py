"""How often the table is asked for the sessions of open pages."""

import asyncio
from collections.abc import Collection, Mapping

import pytest

from api.security.session_states import SessionStates
from registry.console_sessions import Identity, OpenSession

SESSION = OpenSession(Identity("a-client", None, None), None, use_is_noted=True)


class SessionTable:
    """A table and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[frozenset[bytes]] = []
        self.open: Collection[bytes] = [b"1", b"2", b"3"]
        self.is_away = False
        self.states = SessionStates(self.ask, lambda: self.now)

    async def ask(self, digests: Collection[bytes]) -> Mapping[bytes, OpenSession]:
        self.asked.append(frozenset(digests))
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionRefusedError
        return {digest: SESSION for digest in digests if digest in self.open}

    async def find(self, *digests: bytes) -> list[OpenSession | None]:
        return await asyncio.gather(*map(self.states.find, digests))


async def test_registry_is_asked_once_for_all_sessions_when_many_pages_are_open() -> None:
    table = SessionTable()
    assert await table.find(b"1", b"2", b"unknown") == [SESSION, SESSION, None]
    table.now += 2.9
    assert await table.find(b"1", b"2", b"unknown") == [SESSION, SESSION, None]
    assert table.asked == [{b"1", b"2", b"unknown"}]
    table.now += 0.2
    table.open = [b"2"]
    assert await table.find(b"1") == [None]
    assert await table.find(b"2") == [SESSION]
    assert table.asked[1:] == [{b"1", b"2", b"unknown"}]


async def test_a_session_is_known_when_the_registry_was_asked_before_it_began() -> None:
    table = SessionTable()
    first = asyncio.create_task(table.states.find(b"1"))
    while not table.asked:
        await asyncio.sleep(0)
    assert await table.find(b"2") == [SESSION]
    assert await first == SESSION
    assert table.asked == [{b"1"}, {b"1", b"2"}]


async def test_a_session_is_asked_for_no_more_when_its_pages_are_closed() -> None:
    table = SessionTable()
    await table.find(b"1", b"2")
    table.now += 20
    await table.find(b"2")
    table.now += 20
    await table.find(b"2")
    assert table.asked[-1] == {b"2"}


async def test_a_session_is_asked_for_again_when_it_was_ended_here() -> None:
    table = SessionTable()
    await table.find(b"1")
    table.open = []
    table.states.forget(b"1")
    assert await table.find(b"1") == [None]


async def test_every_page_is_told_when_the_registry_is_away() -> None:
    table = SessionTable()
    table.is_away = True
    with pytest.raises(ConnectionRefusedError):
        await table.find(b"1", b"2")
    table.is_away = False
    assert await table.find(b"1") == [SESSION]
