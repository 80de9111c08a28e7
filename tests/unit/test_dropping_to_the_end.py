"""A cancellation is acted on until the DROP begins; then the work is done to its end."""

import asyncio

import pytest

from activities.job_fence import DroppingToTheEnd


class _Drop:
    """Work on a database: it drops nothing `refused` times, and waits for `may_end` each time it drops."""

    def __init__(self, refused: int = 0) -> None:
        self.to_the_end = DroppingToTheEnd(self._require_due)
        self.may_end = asyncio.Event()
        self.drops = asyncio.Event()
        self.is_due = asyncio.Event()
        self.is_due.set()
        self.recorded = False
        self._refused = refused

    async def _require_due(self) -> None:
        await self.is_due.wait()

    async def work(self) -> str:
        while True:
            await self.to_the_end.before_drop()
            self.drops.set()
            await self.may_end.wait()
            if not self._refused:
                break
            self._refused -= 1
        await asyncio.sleep(0)
        self.recorded = True
        return "dropped"


async def test_work_is_done_to_its_end_when_it_is_cancelled_after_the_drop_has_begun() -> None:
    drop = _Drop()
    running = asyncio.create_task(drop.to_the_end.run(drop.work()))
    await drop.drops.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    drop.may_end.set()
    assert await running == "dropped"
    assert drop.recorded


async def test_nothing_is_dropped_when_the_work_is_cancelled_while_it_asks_whether_to_drop() -> None:
    drop = _Drop()
    drop.is_due.clear()
    running = asyncio.create_task(drop.to_the_end.run(drop.work()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not drop.drops.is_set()


async def test_no_other_try_is_made_when_the_work_was_cancelled_in_one_that_dropped_nothing() -> None:
    drop = _Drop(refused=1)
    running = asyncio.create_task(drop.to_the_end.run(drop.work()))
    await drop.drops.wait()
    running.cancel()
    await asyncio.sleep(0)
    drop.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not drop.recorded


async def test_fault_of_the_drop_is_told_when_the_work_was_cancelled_meanwhile() -> None:
    to_the_end = DroppingToTheEnd(_nothing)
    begun = asyncio.Event()

    async def fail() -> None:
        await to_the_end.before_drop()
        begun.set()
        await asyncio.sleep(0.01)
        raise ValueError("nothing was dropped")

    running = asyncio.create_task(to_the_end.run(fail()))
    await begun.wait()
    running.cancel()
    with pytest.raises(ValueError, match="nothing was dropped"):
        await running


async def _nothing() -> None:
    """Refuse nothing."""
