"""What the catalog shows of rows that the registry or other programs wrote."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import JobWait
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import InstanceNotFoundError
from ods.registry.storage.listing import Page
from ods.registry.storage.models import OdsInstance
from tests.postgres.instance_states import STATES, bring_to

NOON = datetime(2026, 8, 1, 12)  # noqa: DTZ001 - the registry's timestamps hold UTC without a zone


async def add_job(
    rows: asyncpg.Connection,
    number: int,
    seconds: float | None,
    *,
    kind: tuple[str | None, str | None] = ("Create", "Minimal"),
    status: str = "Completed",
) -> None:
    finished = NOON + timedelta(minutes=number)
    await rows.execute(
        "INSERT INTO adminapi.jobstatuses"
        " (jobid, status, createdat, startedat, finishedat, operation, databasetemplate)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        f"job-{number}",
        status,
        finished - timedelta(days=1),
        None if seconds is None else finished - timedelta(seconds=seconds),
        finished,
        *kind,
    )


async def test_instances_are_listed_by_id_with_deleted_ones_when_they_are_in_any_state(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    jobs = [await bring_to(instances, job_store, state, f"{name} {state}") for state in STATES]
    await job_store.fail(jobs[1], "touched, so that its row is stored anew")
    listed = await queries.instances(offset=0, limit=100)
    assert [row.id for row in listed] == sorted(job.instance_id for job in jobs)
    assert [row.status for row in listed].count("Deleted") == 1


async def test_pages_follow_each_other_when_offset_and_limit_say_so(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    ids = [
        (await bring_to(instances, job_store, "Pending", f"{name} {number}")).instance_id
        for number in range(5)
    ]
    pages = [await queries.instances(offset=offset, limit=2) for offset in (0, 2, 4, 6)]
    assert [[row.id for row in page] for page in pages] == [ids[:2], ids[2:4], ids[4:], []]
    assert await queries.instances(offset=0, limit=0) == []


async def test_filters_are_exact_when_instances_are_listed(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    deleted = await bring_to(instances, job_store, "Deleted", name)
    live = await bring_to(instances, job_store, "Pending", name)
    other = await bring_to(instances, job_store, "Pending", f"{name} x")
    assert [row.id for row in await queries.instances(offset=0, limit=9, name=name)] == [
        deleted.instance_id,
        live.instance_id,
    ]
    assert await queries.instances(offset=0, limit=9, name=name.lower()) == []
    assert await queries.instances(offset=0, limit=9, name="") == []
    (found,) = await queries.instances(offset=0, limit=9, instance_id=other.instance_id)
    assert found.name == f"{name} x"
    assert await queries.instances(offset=0, limit=9, instance_id=other.instance_id, name=name) == []
    assert await queries.instances(offset=0, limit=9, instance_id=0) == []


@pytest.mark.parametrize("state", [state for state in STATES if state != "Deleted"])
async def test_instance_is_found_by_id_when_it_is_live(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    renamed = state == "Completed_Rename"
    assert (await queries.instance(job.instance_id)).name == (job.final_name if renamed else name)


async def test_instance_is_not_found_by_id_when_it_is_deleted_or_unknown(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    deleted = await bring_to(instances, job_store, "Deleted", name)
    for instance_id in (deleted.instance_id, deleted.instance_id + 1, 0):
        with pytest.raises(InstanceNotFoundError):
            await queries.instance(instance_id)


async def test_all_live_instances_are_told_when_some_are_deleted(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    jobs = {state: await bring_to(instances, job_store, state, f"{name} {state}") for state in STATES}
    live = [job.instance_id for state, job in jobs.items() if state != "Deleted"]
    assert [row.id for row in await queries.live_instances()] == live


async def test_marks_are_known_when_instances_have_or_had_them(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    jobs = [
        await bring_to(instances, job_store, state, f"{name} {state}")
        for state in ("Pending", "Deleted", "Error")
    ]
    stranger = "6b1f0f6e-1111-4222-8333-444444444444"
    asked = [jobs[0].mark, jobs[1].mark, stranger]
    assert await queries.known_marks(asked) == {jobs[0].mark, jobs[1].mark}
    assert await queries.known_marks([]) == set()


async def test_job_is_found_by_its_exact_id_when_it_exists(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    job = await bring_to(instances, job_store, "Deleted", name)
    found = await queries.job(job.job_id)
    assert found is not None
    assert (found.job_id, found.status) == (job.job_id, "Completed")
    assert await queries.job(job.job_id.lower()) is None
    assert await queries.job("") is None


async def test_ods_instances_come_by_id_when_their_names_are_equal(
    queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    for number, kind in ((5, "c"), (3, "a"), (4, "b")):
        await rows.execute("INSERT INTO dbo.odsinstances VALUES ($1, 'same', $2)", number, kind)
    assert [row.ods_instance_id for row in await queries.ods_instances(Page("Name"))] == [3, 4, 5]
    assert [row.ods_instance_id for row in await queries.every(OdsInstance)] == [3, 4, 5]


async def test_contexts_and_derivatives_are_those_of_the_ods_instance_when_it_is_shown(
    queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances VALUES (1, 'one'), (2, 'two')")
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES (1, 'z', '1'), (2, 'year', '2'), (1, 'a', '3')"
    )
    await rows.execute(
        "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype)"
        " VALUES (1, 'Snapshot'), (2, 'Snapshot'), (1, 'ReadReplica')"
    )
    assert [row.key for row in await queries.contexts_of(1)] == ["z", "a"]
    assert [row.derivative_type for row in await queries.derivatives_of(1)] == ["Snapshot", "ReadReplica"]
    assert await queries.contexts_of(3) == []
    assert await queries.derivatives_of(3) == []
    assert await queries.ods_instance(3) is None


async def test_usual_duration_is_the_median_of_like_jobs_when_some_were_completed(
    queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    for number, seconds in enumerate([4, 1, 100, 2, 3]):
        await add_job(rows, number, seconds)
    await add_job(rows, 10, 1000, kind=("Create", "Sample"))
    await add_job(rows, 11, 1000, kind=("Delete", "Minimal"))
    await add_job(rows, 12, 1000, status="Error")
    await add_job(rows, 13, 1000, kind=(None, None))
    assert await queries.usual_duration("Create", "Minimal") == 3
    assert await queries.usual_duration("Create", "Sample") == 1000
    assert await queries.usual_duration("Delete", "Sample") is None


async def test_usual_duration_is_of_the_last_twenty_when_there_were_more(
    queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    for number in range(40):
        await add_job(rows, number, 1000 if number < 20 else 0.5)
    assert await queries.usual_duration("Create", "Minimal") == 0.5


async def test_usual_duration_counts_from_the_begin_when_a_job_waited(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending", name)
    await rows.execute("UPDATE adminapi.jobstatuses SET createdat = createdat - interval '1 day'")
    await job_store.begin(job)
    await job_store.finish_create(job, "iv|ciphertext|hmac")
    usual = await queries.usual_duration("Create", "Minimal")
    assert usual is not None
    assert 0 < usual < 60


async def test_waits_are_no_work_when_a_job_has_waited_twice(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    await rows.execute(
        "UPDATE adminapi.jobstatuses SET percent = 1, createdat = createdat - interval '3 hours',"
        " startedat = startedat - interval '3 hours'"
    )
    for since in (7200, 7200, 600):  # the reason has changed; another outage
        await job_store.record_wait(JobWait(job, "The server is away.", since, 60))
        assert (await queries.job_ages([job.job_id]))[job.job_id] == pytest.approx(3600, abs=60)
    waiting = await queries.job(job.job_id)
    assert waiting is not None
    assert (waiting.percent, waiting.worked_seconds) == (None, None)
    await job_store.end_wait(job)
    assert (await queries.job_ages([job.job_id]))[job.job_id] == pytest.approx(3600, abs=60)
    await job_store.finish_create(job, "iv|ciphertext|hmac")
    done = await queries.job(job.job_id)
    assert done is not None
    assert done.worked_seconds == pytest.approx(3600, abs=60)
    assert await queries.usual_duration("Create", "Minimal") == pytest.approx(3600, abs=60)


async def test_job_waits_for_nothing_when_it_has_done_a_part_of_its_work(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    await job_store.record_wait(JobWait(job, "The server is away.", 600, 60))
    for percent, waits in ((0, True), (1, False)):
        assert await job_store.record_progress(job, percent, None)
        row = await queries.job(job.job_id)
        assert row is not None
        assert (row.percent, row.waiting is not None) == (percent, waits)
        assert row.waited_seconds == pytest.approx(0 if waits else 600, abs=60)


async def test_ages_are_those_of_the_known_jobs_when_jobs_are_asked_for(
    instances: InstanceStore, queries: InstanceQueries, rows: asyncpg.Connection, name: str
) -> None:
    first = (await instances.reserve(f"{name} 1", Template.MINIMAL)).job.job_id
    second = (await instances.reserve(f"{name} 2", Template.MINIMAL)).job.job_id
    await rows.execute(
        "UPDATE adminapi.jobstatuses SET createdat = createdat - interval '1 hour' WHERE jobid = $1", first
    )
    ages = await queries.job_ages([first, second, "unknown"])
    assert ages.keys() == {first, second}
    assert 3600 <= ages[first] < 3660
    assert 0 <= ages[second] < 60
    assert await queries.job_ages([]) == {}


async def test_times_are_utc_when_the_session_has_another_zone(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    database = await rows.fetchval("SELECT current_database()")
    await rows.execute(f"ALTER DATABASE \"{database}\" SET timezone = 'Pacific/Kiritimati'")
    try:
        job = await bring_to(instances, job_store, "Pending", name)
        instance, row = await queries.instance(job.instance_id), await queries.job(job.job_id)
    finally:
        await rows.execute(f'ALTER DATABASE "{database}" RESET timezone')
    now = datetime.now(UTC).replace(tzinfo=None)
    assert row is not None
    for time in (row.created_at, instance.last_modified, instance.last_refreshed):
        assert time is not None
        assert abs(now - time) < timedelta(minutes=1)
