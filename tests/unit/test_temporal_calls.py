"""Waiting for Temporal: not for long, and not when the process shall stop."""

import asyncio

import pytest

from api.http import temporal_calls


async def test_waiting_ends_when_it_is_cancelled_at_the_moment_of_the_answer() -> None:
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(temporal_calls.answer_of(answer))
    await asyncio.sleep(0)
    answer.set_result("here it is")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_waiting_ends_when_nothing_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporal_calls, "TIMEOUT", 0.01)
    with pytest.raises(TimeoutError):
        await temporal_calls.answer_of(asyncio.get_running_loop().create_future())
