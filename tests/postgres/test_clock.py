"""Gaps between the passes of the workers, by the registry's clock."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.clock import RegistryClock
from registry.instances.job_store import JobStore
from registry.instances.jobs import InstanceJob
from registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to


@pytest.fixture(autouse=True)
async def no_passes(rows: asyncpg.Connection) -> AsyncIterator[None]:
    """The registry is shared with other tests, for which nothing shall be withheld."""
    yield
    await rows.execute(
        "UPDATE adminapi.installation SET passat = NULL, gapfrom = NULL, gapto = NULL, setbackfrom = NULL"
    )


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


async def purge_times(rows: asyncpg.Connection, job: InstanceJob) -> list[timedelta]:
    """In how much time, by the registry's clock, the instance and its versions are purged."""
    return [
        row["left"]
        for row in await rows.fetch(
            """
            SELECT purgeafter - timezone('utc', now()) AS left FROM adminapi.dbinstances WHERE id = $1
            UNION ALL
            SELECT purgeafter - timezone('utc', now()) FROM adminapi.instanceversions WHERE instanceid = $1
            """,
            job.instance_id,
        )
    ]


async def in_trash_with_version(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    job = await bring_to(instances, job_store, "Completed", name)
    reset = (await instances.request_reset(job.instance_id)).job
    assert (await job_store.begin(reset)).held
    assert await job_store.finish_replacement(reset)
    deletion = (await instances.request_delete(job.instance_id)).job
    assert (await job_store.begin(deletion)).held
    assert await job_store.finish_delete(deletion)
    return job


async def test_trash_stays_for_its_days_when_the_clock_was_behind_and_is_put_right(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    await clock.observe()
    await set_back(rows, "passat", "-30 days")  # the last pass before the clock was set back
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    for column in ("passat", "setbackfrom"):
        await set_back(rows, column, "30 days")
    for table, since in (("dbinstances", "trashedat"), ("instanceversions", "replacedat")):
        for column in (since, "purgeafter"):
            await rows.execute(f"UPDATE adminapi.{table} SET {column} = {column} - interval '30 days'")  # noqa: S608
    assert max(await purge_times(rows, job)) < timedelta()
    await clock.observe()
    kept = await purge_times(rows, job)
    assert len(kept) == 2
    assert min(kept) > timedelta(days=6)
    assert await rows.fetchval("SELECT setbackfrom FROM adminapi.installation") is None


async def test_trash_stays_for_its_days_when_the_clock_was_set_back_after_the_last_pass(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    await clock.observe()
    await set_back(rows, "passat", "-30 days")
    job = await in_trash_with_version(instances, job_store, name)
    assert min(await purge_times(rows, job)) > timedelta(days=36)


async def test_trash_is_due_at_its_time_when_no_worker_has_run_for_days(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    before = await purge_times(rows, job)
    await set_back(rows, "passat", "30 days")
    await clock.observe()
    assert await clock.gap() is not None
    assert max(await purge_times(rows, job)) <= max(before)
