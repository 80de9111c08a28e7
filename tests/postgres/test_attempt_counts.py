"""Limits that the registry counts."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.attempt_counts import AttemptCounts, AttemptLimit

LIMIT = AttemptLimit("tests", burst=3, interval=timedelta(seconds=100))
PASSED = "UPDATE adminapi.attemptcounts SET regainedat = regainedat - CAST($1 AS text)::interval"


@pytest.fixture
def counts(engine: AsyncEngine) -> AttemptCounts:
    return AttemptCounts(engine)


async def test_key_is_admitted_again_when_it_has_waited_as_told(
    counts: AttemptCounts, rows: asyncpg.Connection
) -> None:
    assert [await counts.wait(LIMIT, "a") for _ in range(3)] == [0, 0, 0]
    assert 99 < await counts.wait(LIMIT, "a") <= 100
    await rows.execute(PASSED, "40 seconds")
    assert 59 < await counts.peek(LIMIT, "a") <= 60
    assert await counts.wait(LIMIT, "b") == 0
    await rows.execute(PASSED, "61 seconds")
    assert await counts.peek(LIMIT, "a") == 0
    assert await counts.wait(LIMIT, "a") == 0
    assert await counts.wait(LIMIT, "a") > 0
    await counts.forget(LIMIT, "a")
    assert await counts.wait(LIMIT, "a") == 0


async def test_no_more_are_admitted_than_the_burst_when_they_come_at_once(counts: AttemptCounts) -> None:
    told = await asyncio.gather(*(counts.wait(LIMIT, "a") for _ in range(8)))
    assert sorted(told)[:4] == [0, 0, 0, pytest.approx(100, abs=5)]


async def test_row_is_removed_when_its_key_has_regained_everything(
    counts: AttemptCounts, rows: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await counts.wait(LIMIT, "a")
    await rows.execute(PASSED, "101 seconds")
    await counts.wait(LIMIT, "b")
    await AttemptCounts(engine).wait(LIMIT, "c")
    assert await rows.fetchval("SELECT count(*) FROM adminapi.attemptcounts") == 2


async def test_nobody_is_kept_out_when_the_clock_was_set_back(
    counts: AttemptCounts, rows: asyncpg.Connection
) -> None:
    await counts.wait(LIMIT, "a")
    await rows.execute(PASSED, "-1 day")
    assert await counts.peek(LIMIT, "a") == 0
    assert [await counts.wait(LIMIT, "a") for _ in range(3)] == [0, 0, 0]
    assert await counts.wait(LIMIT, "a") > 0
