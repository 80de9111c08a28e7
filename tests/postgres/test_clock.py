"""Gaps between the passes of the workers, by the registry's clock."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from typing import Self

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import ods.registry.clock
from ods.model.arguments import Way
from ods.model.origins import BackupOrigin
from ods.registry.backups.expiry import BackupExpiry
from ods.registry.clock import RegistryClock
from ods.registry.installation import InstallationStore
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.instances.versions import VersionStore
from ods.settings.settings import VerifyPolicy
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, POLICY, bring_to, stores
from tests.postgres.test_scheduled_backups import KEPT, MONDAY, TUESDAY, deleted, made, made_at

TIMES = {
    "installation": ("passat", "gapfrom", "gapto", "setbackfrom"),
    "dbinstances": ("lastmodifieddate",),
    "databases": ("trashedat", "purgeafter"),
    "backups": ("createdat", "finishedat", "expiresat", "keptuntil"),
}


@pytest.fixture(autouse=True)
async def no_passes(rows: asyncpg.Connection) -> AsyncIterator[None]:
    """The registry is shared with other tests, for which nothing shall be withheld."""
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")
    await rows.execute("DELETE FROM adminapi.backups")
    yield
    await rows.execute(
        "UPDATE adminapi.installation SET passat = NULL, gapfrom = NULL, gapto = NULL, setbackfrom = NULL"
    )


@pytest.fixture
def clock(engine: AsyncEngine) -> RegistryClock:
    return RegistryClock(engine, timedelta(minutes=5))


@pytest.fixture
def expiry(engine: AsyncEngine, instances: InstanceStore) -> BackupExpiry:
    return BackupExpiry(engine, instances.installation, KEPT, VerifyPolicy.WEEKLY)


@pytest.fixture
async def job(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The create of an instance that works."""
    return await bring_to(instances, job_store, "Completed", name)


def version_store(engine: AsyncEngine) -> VersionStore:
    return VersionStore(engine, JobFactory(InstallationStore(engine), POLICY))


async def set_back(rows: asyncpg.Connection, column: str, interval: str) -> None:
    """As if the clock had been set ahead by the interval since."""
    await rows.execute(f"UPDATE adminapi.installation SET {column} = {column} - interval '{interval}'")  # noqa: S608 - constants


async def clock_is_set(rows: asyncpg.Connection, by: str) -> None:
    """As if the clock had been set ahead by the interval now: by it, all that was recorded is older."""
    for table, columns in TIMES.items():
        moved = ", ".join(f"{column} = {column} - interval '{by}'" for column in columns)
        await rows.execute(f"UPDATE adminapi.{table} SET {moved}")  # noqa: S608 - constants


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
    assert await clock.gap() is not None
    await clock.observe()
    assert await clock.gap() is None


async def test_gap_is_forgotten_when_the_clock_was_put_right_and_found_again_when_it_is_wrong_once_more(
    clock: RegistryClock, rows: asyncpg.Connection
) -> None:
    await clock.observe()
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    await clock_is_set(rows, by="-8 days")
    assert await clock.gap() is None
    await clock.observe()
    assert await clock.gap() is None
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    assert await clock.gap() is not None


async def test_time_is_steady_when_passes_have_run_for_a_day_without_a_gap(
    clock: RegistryClock, rows: asyncpg.Connection
) -> None:
    assert not await clock.is_steady()  # no pass has run yet
    await clock.observe()
    assert await clock.is_steady()
    await set_back(rows, "passat", "25 hours")
    assert not await clock.is_steady()
    await clock.observe()
    assert not await clock.is_steady()
    await set_back(rows, "gapto", "24 hours")
    assert not await clock.is_steady()
    await clock.observe()
    assert await clock.is_steady()


@pytest.mark.parametrize("lead", [timedelta(days=500), timedelta(minutes=6), -timedelta(minutes=6)])
async def test_time_is_not_steady_when_the_registry_s_clock_is_not_that_of_this_machine(
    clock: RegistryClock, lead: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> Self:
            return super().now(zone) - lead

    await clock.observe()
    monkeypatch.setattr(ods.registry.clock, "datetime", Elsewhere)
    assert not await clock.is_steady()


GAP_IS_FORGOTTEN = "SELECT gapfrom IS NULL AND gapto IS NULL FROM adminapi.installation"


async def test_gap_lasts_for_another_day_when_the_clock_is_put_back_but_is_still_days_ahead(
    clock: RegistryClock, rows: asyncpg.Connection
) -> None:
    """Only after the last step is it right: nothing is due by the wrong one meanwhile."""
    await clock.observe()
    await set_back(rows, "passat", "8 days")
    await clock.observe()
    await clock_is_set(rows, by="-12 hours")
    assert await clock.gap() is not None
    await clock.observe()
    await clock_is_set(rows, by="23 hours")
    await clock.observe()
    assert await clock.gap() is not None
    await clock_is_set(rows, by="-180 hours")
    assert await clock.gap() is None
    await clock.observe()
    assert await clock.gap() is None
    assert await rows.fetchval(GAP_IS_FORGOTTEN)


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
            "SELECT purgeafter - timezone('utc', now()) AS left FROM adminapi.databases"
            " WHERE instanceid = $1 ORDER BY reason",
            job.instance_id,
        )
    ]


async def with_version(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    job = await bring_to(instances, job_store, "Completed", name)
    reset = (await instances.request_reset(job.instance_id)).job
    assert (await job_store.begin(reset)).held
    assert await job_store.finish_replacement(reset)
    return job


async def in_trash_with_version(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    job = await with_version(instances, job_store, name)
    deletion = (await instances.request_delete(job.instance_id)).job
    assert (await job_store.begin(deletion)).held
    assert await job_store.finish_delete(deletion)
    return job


@pytest.mark.parametrize(
    "steps",
    [("30 days 30 minutes",), ("29 days 9 hours", "15 hours 30 minutes"), ("29 days 23:58", "5 minutes")],
    ids=["at once", "the day before the hour", "two minutes slow"],
)
async def test_trash_stays_for_its_days_when_the_clock_was_behind_and_is_put_right(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    steps: tuple[str, ...],
) -> None:
    await clock.observe()
    await clock_is_set(rows, "-30 days")
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    for step in steps:
        await clock_is_set(rows, step)
        await clock.observe()
    kept = await purge_times(rows, job)
    assert len(kept) == 2
    assert min(kept) > timedelta(days=6)
    assert await rows.fetchval("SELECT setbackfrom FROM adminapi.installation") is None


async def test_trash_stays_for_its_days_when_no_pass_has_run_while_the_clock_was_behind(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    """Temporal starts none by its schedule before its clock shows a later time than that of the last one."""
    await clock.observe()
    await clock_is_set(rows, "-10 days")
    await clock_is_set(rows, "6 days")  # that go by
    job = await in_trash_with_version(instances, job_store, name)
    assert min(await purge_times(rows, job)) > timedelta(days=10)
    await clock_is_set(rows, "10 days 1 hour")
    await clock.observe()
    assert min(await purge_times(rows, job)) > timedelta(days=6)


async def test_what_a_reset_replaces_is_dropped_when_it_need_not_stay_and_a_clock_was_ahead(
    clock: RegistryClock, rows: asyncpg.Connection, engine: AsyncEngine, name: str
) -> None:
    instances, job_store = stores(engine)  # with ODS_TRASH_DAYS=0
    job = await bring_to(instances, job_store, "Completed", name)
    await clock.observe()
    await clock_is_set(rows, "-365 days")
    reset = (await instances.request_reset(job.instance_id)).job
    assert (await job_store.begin(reset)).held
    assert await job_store.finish_replacement(reset)
    assert await version_store(engine).claim_replaced(reset)


@pytest.mark.parametrize("comes_back", [False, True], ids=["protected", "undeleted"])
async def test_versions_stay_for_their_days_when_they_were_kept_anew_by_a_clock_that_was_behind(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    engine: AsyncEngine,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    comes_back: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Their time is over, but for what is done to the instance while the clock is behind."""
    if comes_back:
        job = await in_trash_with_version(instances, job_store, name)
        await rows.execute(
            "UPDATE adminapi.databases SET purgeafter = NULL WHERE instanceid = $1 AND reason = 'deleted'",
            job.instance_id,
        )
    else:
        job = await with_version(instances, job_store, name)
        await instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    await clock_is_set(rows, "20 days")
    await clock.observe()
    await clock_is_set(rows, "-30 days")
    if comes_back:
        undelete = (await instances.request_undelete(job.instance_id)).job
        assert (await job_store.begin(undelete)).held
        assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    else:
        await instances.change_attributes(job.instance_id, AttributeChanges(protected=False))
    await clock_is_set(rows, "30 days 1 hour")
    await clock.observe()
    assert await version_store(engine).claim_due(5) == []


async def test_backup_stays_for_another_restore_when_the_clock_was_behind_as_one_has_failed(
    clock: RegistryClock, rows: asyncpg.Connection, tenant: Tenant, expiry: BackupExpiry, job: InstanceJob
) -> None:
    first = await made_at(tenant, rows, job, MONDAY)
    await made_at(tenant, rows, job, TUESDAY)
    reset = (await tenant.instances.request_reset(job.instance_id, origin=BackupOrigin(str(first)))).job
    assert (await tenant.jobs.begin(reset)).held
    await clock.observe()
    await clock_is_set(rows, "-30 days")
    assert await tenant.jobs.fail(reset, "The store is away.", outage=True)
    await clock_is_set(rows, "30 days 1 hour")
    await clock.observe()
    assert await deleted(expiry) == []


async def test_scheduled_backups_stay_when_the_clock_was_behind_as_they_were_made(
    clock: RegistryClock, rows: asyncpg.Connection, tenant: Tenant, expiry: BackupExpiry, job: InstanceJob
) -> None:
    await clock.observe()
    await clock_is_set(rows, "-30 days")
    await clock.observe()
    for night in (MONDAY, TUESDAY):
        await made(tenant, job, night)
        await clock_is_set(rows, "1 day")  # that goes by
        await clock.observe()
    await clock_is_set(rows, "28 days 1 hour")
    await clock.observe()
    assert await deleted(expiry) == []


async def test_last_backup_stays_for_ninety_days_when_the_clock_was_behind_as_its_instance_was_purged(
    clock: RegistryClock, rows: asyncpg.Connection, tenant: Tenant, expiry: BackupExpiry, job: InstanceJob
) -> None:
    await made(tenant, job, MONDAY)
    await clock.observe()
    await clock_is_set(rows, "-400 days")
    await clock.observe()
    delete = (await tenant.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    assert (await tenant.jobs.begin(delete)).held
    assert await tenant.jobs.finish_delete(delete)
    await clock_is_set(rows, "400 days")
    await clock.observe()
    await clock_is_set(rows, "89 days")
    assert await deleted(expiry) == []
    await clock_is_set(rows, "2 days")
    assert len(await deleted(expiry)) == 1


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


@pytest.mark.parametrize(
    ("late", "days"), [("14 minutes", 1), ("16 minutes", 7), ("23 hours", 7)], ids=["no", "yes", "much"]
)
async def test_trash_stays_for_a_week_when_a_pass_is_late(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    late: str,
    days: int,
) -> None:
    """A machine that was put back to an hour ago would otherwise drop what was brought back since."""
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    await _is_due(rows, job, "1 day")
    await rows.execute("UPDATE adminapi.databases SET purgingsince = now() WHERE reason = 'replaced'")
    await set_back(rows, "passat", late)
    assert await clock.is_in_doubt() is (days == 7)
    await clock.observe()
    assert not await clock.is_in_doubt()
    assert [round(left / timedelta(days=1)) for left in await purge_times(rows, job)] == [days, days]
    is_claimed = "SELECT purgingsince IS NOT NULL FROM adminapi.databases WHERE reason = 'replaced'"
    assert await rows.fetchval(is_claimed) is (days == 1)


async def test_trash_stays_for_a_week_when_the_operator_has_had_a_day_to_put_the_clock_right(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
) -> None:
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    await _is_due(rows, job, "0")
    await set_back(rows, "passat", "3 days")
    await clock.observe()
    assert max(await purge_times(rows, job)) < timedelta()
    await set_back(rows, "gapto", "25 hours")
    await clock.observe()
    assert [round(left / timedelta(days=1)) for left in await purge_times(rows, job)] == [7, 7]
    assert await rows.fetchval(GAP_IS_FORGOTTEN)


@pytest.mark.parametrize(
    ("away", "days"), [("23 hours", 7), ("5 minutes", 0)], ids=["put back", "only wrong"]
)
async def test_trash_stays_for_a_week_when_the_first_pass_was_late_by_a_clock_that_was_ahead(
    clock: RegistryClock,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    away: str,
    days: int,
) -> None:
    """A machine that was put back may start with a clock that is right only minutes later."""
    await clock.observe()
    job = await in_trash_with_version(instances, job_store, name)
    await set_back(rows, "passat", away)
    await clock_is_set(rows, by="2 days")
    await clock.observe()
    assert await clock.gap() is not None
    await clock_is_set(rows, by="-2 days")
    await _is_due(rows, job, "0")
    await clock.observe()
    assert await clock.gap() is None
    assert [round(left / timedelta(days=1)) for left in await purge_times(rows, job)] == [days, days]


async def _is_due(rows: asyncpg.Connection, job: InstanceJob, left: str) -> None:
    query = f"UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) + interval '{left}'"  # noqa: S608 - constants
    await rows.execute(f"{query} WHERE instanceid = $1 AND reason IS NOT NULL", job.instance_id)
