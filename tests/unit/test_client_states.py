"""What is remembered of clients, for how long, and how often the registry is asked."""

import asyncio

import pytest

from api.security.client_states import Standings
from registry.clients.credentials import ClientScope
from registry.clients.store import Standing

HOLDS = Standing(ClientScope.FULL_ACCESS, None)


class Registry:
    """A registry and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self.answer: Standing | OSError | None = HOLDS
        self.standings = Standings(self.ask, lambda: self.now)

    async def ask(self, client_id: str) -> Standing | None:
        self.asked.append(client_id)
        answer = self.answer
        await asyncio.sleep(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def find(self, age: float = 3) -> Standing | None:
        return await self.standings.find("a", self.now - age)


async def test_registry_is_asked_once_when_many_requests_come_within_the_time() -> None:
    registry = Registry()
    assert await asyncio.gather(*(registry.find() for _ in range(50))) == [HOLDS] * 50
    registry.now += 2.9
    assert await registry.find() == HOLDS
    assert registry.asked == ["a"]
    registry.now += 0.2
    registry.answer = None
    assert await asyncio.gather(*(registry.find() for _ in range(50))) == [None] * 50
    assert registry.asked == ["a", "a"]


async def test_registry_is_asked_again_when_what_is_asked_is_older_than_what_is_wanted() -> None:
    registry = Registry()
    asking = asyncio.create_task(registry.find())
    while not registry.asked:
        await asyncio.sleep(0)
    registry.now += 1
    registry.answer = None
    assert await registry.find(age=0) is None
    await asking
    assert registry.asked == ["a", "a"]


async def test_known_client_counts_a_little_longer_when_the_registry_is_away() -> None:
    registry = Registry()
    await registry.find()
    registry.answer = OSError("away")
    registry.now += 4.9
    assert await registry.find() == HOLDS
    registry.now += 0.2
    with pytest.raises(OSError, match="away"):
        await registry.find()
    registry.answer = HOLDS
    assert await registry.find() == HOLDS


async def test_fault_is_raised_for_all_when_an_unknown_client_cannot_be_asked_for() -> None:
    registry = Registry()
    registry.answer = OSError("away")
    found = await asyncio.gather(*(registry.find() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(fault, OSError) for fault in found)
    assert registry.asked == ["a"]


async def test_others_get_the_answer_when_the_request_that_asked_is_cancelled() -> None:
    registry = Registry()
    first, second = asyncio.create_task(registry.find()), asyncio.create_task(registry.find())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == HOLDS
    assert registry.asked == ["a"]


async def test_memory_is_bounded_when_there_are_many_clients() -> None:
    registry = Registry()
    for number in range(10_100):
        await registry.standings.find(str(number), registry.now)
    assert len(registry.standings) == 10_000
