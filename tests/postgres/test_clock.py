"""Gaps between the passes of the workers, by the registry's clock."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.clock import RegistryClock


@pytest.fixture(autouse=True)
async def no_passes(rows: asyncpg.Connection) -> AsyncIterator[None]:
    """The registry is shared with other tests, for which nothing shall be withheld."""
    yield
    await rows.execute("UPDATE adminapi.installation SET passat = NULL, gapfrom = NULL, gapto = NULL")


@pytest.fixture
def clock(engine: AsyncEngine) -> RegistryClock:
    return RegistryClock(engine, timedelta(minutes=5))


async def set_back(rows: asyncpg.Connection, column: str, interval: str) -> None:
    """As if the clock had been set ahead by the interval since."""
    await rows.execute(f"UPDATE adminapi.installation SET {column} = {column} - interval '{interval}'")  # noqa: S608 - constants


@pytest.mark.parametrize("since", ["0", "23 hours", "-8 days"])  # the last: the clock was put right
async def test_there_is_no_gap_when_passes_run_within_a_day(
    clock: RegistryClock, rows: asyncpg.Connection, since: str
) -> None:
    await clock.observe()
    assert await clock.gap() is None
    await set_back(rows, "passat", since)
    await clock.observe()
    assert await clock.gap() is None


async def test_gap_is_known_for_a_day_when_no_pass_has_run_for_longer(
    clock: RegistryClock, rows: asyncpg.Connection
) -> None:
    await clock.observe()
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    found = await clock.gap()
    assert found is not None
    assert found.seen_again - found.last_seen > timedelta(days=8)
    assert found.forgotten_at - found.seen_again == timedelta(days=1)
    for column in ("passat", "gapto"):
        await set_back(rows, column, "23 hours")
    await clock.observe()
    assert (await clock.gap()) is not None
    await set_back(rows, "gapto", "1 hour")
    assert await clock.gap() is None


async def test_gap_is_forgotten_when_the_clock_was_put_right_and_found_again_when_it_is_wrong_once_more(
    clock: RegistryClock, rows: asyncpg.Connection
) -> None:
    await clock.observe()
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    for column in ("passat", "gapfrom", "gapto"):
        await set_back(rows, column, "-8 days")
    assert await clock.gap() is None
    await clock.observe()
    assert await clock.gap() is None
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    assert await clock.gap() is not None


async def test_there_is_no_gap_when_the_settings_let_passes_be_days_apart(
    engine: AsyncEngine, rows: asyncpg.Connection
) -> None:
    clock = RegistryClock(engine, timedelta(days=2))
    await clock.observe()
    for ago, is_gap in (("5 days", False), ("7 days", True)):
        await set_back(rows, "passat", ago)
        await clock.observe()
        assert (await clock.gap() is not None) is is_gap
