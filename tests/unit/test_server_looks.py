"""Looks at the server in the background: one of a kind at a time, and what the last one has found."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api import server_looks
from api.server_looks import ServerLooks
from ods.console.attention import attention_of

JOBS_WORD = "Another installation has databases there: `ods recover --apply --confirm`."


class _Server:
    """A server whose comparison with the registry ends only when it is told to."""

    def __init__(self) -> None:
        self.comparisons = 0
        self.ends = asyncio.Event()
        self.unconfirmed: str | None = None

    async def detect(self, _: object) -> list[Any]:
        self.comparisons += 1
        await self.ends.wait()
        return []

    async def report(self) -> Any:
        return SimpleNamespace(missing=0)

    async def started(self) -> list[Any]:
        return []

    async def obstacle(self) -> str | None:
        return self.unconfirmed

    def looks(self) -> ServerLooks:
        return ServerLooks(cast("Any", self), cast("Any", self), self.started, self.obstacle)


async def _let_looks_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_look_begins_when_one_of_its_kind_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_looks, "_DRIFT_SECONDS", 0)
    server = _Server()
    looks = server.looks()
    for _ in range(2):
        looks.renew()
        await _let_looks_run()
    assert server.comparisons == 1
    server.ends.set()
    await _let_looks_run()
    looks.renew()
    await _let_looks_run()
    assert server.comparisons == 2
    await looks.close()


async def test_registry_and_server_are_compared_again_when_the_operator_has_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_looks, "_INSTALLATION_SECONDS", 0)
    server = _Server()
    server.ends.set()
    server.unconfirmed = JOBS_WORD
    looks = server.looks()
    looks.renew()
    await _let_looks_run()
    looks.renew()
    await _let_looks_run()
    assert server.comparisons == 1
    server.unconfirmed = None
    for _ in range(2):
        looks.renew()
        await _let_looks_run()
    assert server.comparisons == 2
    await looks.close()


async def test_pages_believe_a_job_only_while_there_is_no_look_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def awaited() -> str:
        return JOBS_WORD

    async def nothing(*_: object) -> None:
        return None

    async def none_failed(*_: object) -> int:
        return 0

    looks = _Server().looks()

    async def state() -> object:
        return SimpleNamespace(hold=None)

    store = SimpleNamespace(awaited=awaited, obstacle=nothing, state=state)
    queries = SimpleNamespace(count=none_failed)
    tenant = SimpleNamespace(queries=queries, instances=SimpleNamespace(installation=store))
    services = cast("Any", SimpleNamespace(looks=looks, tenant=tenant))
    assert (await attention_of(services)).unconfirmed == JOBS_WORD
    await looks.look_at_installation()
    assert (await attention_of(services)).unconfirmed is None
    monkeypatch.setattr(server_looks, "_INSTALLATION_SECONDS", -1)  # any look is old
    assert (await attention_of(services)).unconfirmed == JOBS_WORD
    await looks.close()
