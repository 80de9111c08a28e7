"""What is remembered of clients, for how long, and how often the registry is asked."""

import asyncio

import pytest

from api.security.client_states import Standings
from ods.registry.clients.credentials import ClientScope
from ods.registry.clients.store import Standing

HOLDS = Standing(ClientScope.FULL_ACCESS, None, backup_download=True)


class InstanceStore:
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
    instances = InstanceStore()
    assert await asyncio.gather(*(instances.find() for _ in range(50))) == [HOLDS] * 50
    instances.now += 2.9
    assert await instances.find() == HOLDS
    assert instances.asked == ["a"]
    instances.now += 0.2
    instances.answer = None
    assert await asyncio.gather(*(instances.find() for _ in range(50))) == [None] * 50
    assert instances.asked == ["a", "a"]


async def test_registry_is_asked_again_when_what_is_asked_is_older_than_what_is_wanted() -> None:
    instances = InstanceStore()
    asking = asyncio.create_task(instances.find())
    while not instances.asked:
        await asyncio.sleep(0)
    instances.now += 1
    instances.answer = None
    assert await instances.find(age=0) is None
    await asking
    assert instances.asked == ["a", "a"]


async def test_known_client_counts_a_little_longer_when_the_registry_is_away() -> None:
    instances = InstanceStore()
    await instances.find()
    instances.answer = OSError("away")
    instances.now += 4.9
    assert await instances.find() == HOLDS
    instances.now += 0.2
    with pytest.raises(OSError, match="away"):
        await instances.find()
    instances.answer = HOLDS
    assert await instances.find() == HOLDS


async def test_fault_is_raised_for_all_when_an_unknown_client_cannot_be_asked_for() -> None:
    instances = InstanceStore()
    instances.answer = OSError("away")
    found = await asyncio.gather(*(instances.find() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(fault, OSError) for fault in found)
    assert instances.asked == ["a"]


async def test_others_get_the_answer_when_the_request_that_asked_is_cancelled() -> None:
    instances = InstanceStore()
    first, second = asyncio.create_task(instances.find()), asyncio.create_task(instances.find())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == HOLDS
    assert instances.asked == ["a"]


async def test_memory_is_bounded_when_there_are_many_clients() -> None:
    instances = InstanceStore()
    for number in range(10_100):
        await instances.standings.find(str(number), instances.now)
    assert len(instances.standings) == 10_000
