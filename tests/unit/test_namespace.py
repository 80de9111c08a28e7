"""Preparing the namespace: what is refused for one tenant keeps no other tenant waiting."""

import asyncio
from collections import Counter

import pytest
from temporalio.service import RPCError, RPCStatusCode

from ods.registry.storage.errors import InstallationNotConfirmedError
from worker import until_done


async def test_step_is_tried_until_it_succeeds_when_something_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: Counter[str] = Counter()
    faults = [
        RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""),
        OSError(),
        InstallationNotConfirmedError(),
    ]

    async def step() -> None:
        tries["all"] += 1
        if faults:
            raise faults.pop()

    monkeypatch.setattr("worker._RECONNECT_SECONDS", 0.01)
    async with asyncio.timeout(5):
        await until_done(step, "The namespace", asyncio.Event())
    assert tries["all"] == 4


async def test_step_is_given_up_when_the_worker_stops() -> None:
    stop = asyncio.Event()

    async def step() -> None:
        stop.set()
        raise OSError

    async with asyncio.timeout(5):
        await until_done(step, "The namespace", stop)
