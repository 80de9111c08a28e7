"""What charts are drawn from: the sizes of the days before, and what became of jobs."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.instances.job_list import DAYS, JobList, JobsOfDay
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.sizes import KEPT, SizeHistory, SizeOfDay
from ods.registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to

TODAY = datetime.now(UTC).date()


@pytest.fixture
def sizes(engine: AsyncEngine) -> SizeHistory:
    return SizeHistory(engine)


@pytest.fixture
def statistics(engine: AsyncEngine) -> JobList:
    return JobList(engine)


@pytest.fixture
async def instance(instances: InstanceStore, job_store: JobStore) -> int:
    """The id of an instance that can be used."""
    return (await bring_to(instances, job_store, "Completed", "Grand Bend")).instance_id


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


async def test_the_last_sizes_of_a_day_count_when_they_are_recorded_again(
    sizes: SizeHistory, instance: int
) -> None:
    assert await sizes.of_instance(instance) == await sizes.of_all() == []
    await sizes.record({instance: 7}, forget=True)
    await sizes.record({instance: 3_000_000_000}, forget=True)
    (found,) = await sizes.of_instance(instance)
    assert (str(found.day), found.bytes) == (today(), 3_000_000_000)
    assert await sizes.of_all() == [found]


async def test_one_row_of_each_is_there_when_two_record_at_once(
    sizes: SizeHistory, instances: InstanceStore, job_store: JobStore
) -> None:
    ids = [
        (await bring_to(instances, job_store, "Completed", f"Grand Bend {number}")).instance_id
        for number in range(10)
    ]
    one = dict.fromkeys(ids, 1)
    other = dict.fromkeys(reversed(ids), 2)
    await asyncio.gather(*(sizes.record(them, forget=True) for them in [one, other] * 5))
    found = [(await sizes.of_instance(identifier))[0].bytes for identifier in ids]
    assert len(set(found)) == 1
    assert (await sizes.of_all())[0].bytes == sum(found)


async def test_nothing_is_recorded_but_the_sum_when_there_is_no_database(sizes: SizeHistory) -> None:
    await sizes.record({}, forget=True)
    assert [size.bytes for size in await sizes.of_all()] == [0]


@pytest.mark.parametrize("forget", [True, False])
async def test_sizes_are_removed_when_they_are_old_and_the_clock_is_right(
    sizes: SizeHistory, instance: int, rows: asyncpg.Connection, *, forget: bool
) -> None:
    oldest, too_old = TODAY - KEPT + timedelta(days=1), TODAY - KEPT
    await rows.executemany(
        "INSERT INTO adminapi.databasesizes VALUES ($1, $2, 5)", [(instance, oldest), (instance, too_old)]
    )
    await rows.executemany("INSERT INTO adminapi.totalsizes VALUES ($1, 5, 1)", [(oldest,), (too_old,)])
    await sizes.record({}, forget=forget)
    kept = [SizeOfDay(day, 5) for day in (too_old, oldest) if day == oldest or not forget]
    assert await sizes.of_instance(instance) == kept
    assert (await sizes.of_all())[:-1] == kept


@pytest.mark.parametrize("state", ["Deleted", "Delete_Failed", "Error"])
async def test_sizes_stay_when_the_instance_is_not_gone_for_good(
    sizes: SizeHistory, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    instance = (await bring_to(instances, job_store, state, "Grand Bend")).instance_id
    await sizes.record({instance: 7}, forget=True)
    assert len(await sizes.of_instance(instance)) == 1


async def test_sizes_are_removed_but_from_the_sum_when_the_instance_is_gone(
    sizes: SizeHistory, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    instance = (await bring_to(instances, job_store, "Deleted", "Grand Bend")).instance_id
    await sizes.record({instance: 7}, forget=True)
    await rows.execute("UPDATE adminapi.totalsizes SET day = day - 1")
    await rows.execute("UPDATE adminapi.databases SET reason = NULL, trashedat = NULL")
    await sizes.record({}, forget=True)
    assert await sizes.of_instance(instance) == []
    assert [size.bytes for size in await sizes.of_all()] == [7, 0]


async def test_jobs_are_counted_by_the_day_of_their_request_when_some_are_older(
    statistics: JobList, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    for number, state in enumerate(["Completed", "Completed", "Error", "Pending", "InProgress"]):
        await bring_to(instances, job_store, state, f"Grand Bend {number}")
    for name, days in (("Northridge", DAYS - 1), ("Glendale", DAYS)):
        job = await bring_to(instances, job_store, "Completed", name)
        await rows.execute(
            "UPDATE adminapi.jobstatuses SET createdat = $1 WHERE jobid = $2",
            *(datetime.combine(TODAY - timedelta(days=days), datetime.min.time()), job.job_id),
        )
    found = await statistics.by_day()
    assert len(found) == DAYS
    assert found[0] == JobsOfDay(TODAY - timedelta(days=DAYS - 1), 1, 0, 0)
    assert found[-1] == JobsOfDay(TODAY, 2, 1, 2)
    assert {(one.completed, one.failed, one.under_way) for one in found[1:-1]} == {(0, 0, 0)}


async def test_durations_are_told_by_operation_when_jobs_were_completed(
    statistics: JobList, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    assert await statistics.durations() == []
    for seconds in range(11):
        job = await bring_to(instances, job_store, "Completed", f"Grand Bend {seconds}")
        await rows.execute(
            "UPDATE adminapi.jobstatuses SET finishedat = startedat + make_interval(secs => $1)"
            " WHERE jobid = $2",
            *(float(seconds), job.job_id),
        )
    await bring_to(instances, job_store, "Error", "Northridge")
    (found,) = await statistics.durations()
    assert (found.operation, found.count) == ("Create", 11)
    assert found.seconds == pytest.approx([5.0, 9.0, 9.9])
