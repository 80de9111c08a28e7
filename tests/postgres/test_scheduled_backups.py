"""Scheduled backups and snapshots in the registry: what is due, requested once, kept, and deleted."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import Template
from ods.model.origins import BackupOrigin
from ods.registry.backups.expiry import BackupExpiry
from ods.registry.backups.records import BackupRecords
from ods.registry.backups.rows import SCHEDULED
from ods.registry.backups.scheduled import ScheduledBackups
from ods.registry.backups.stored import LostBackup, StoredBackup
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import BackupNotFoundError, RefusedError
from ods.registry.storage.models import Backup
from ods.settings.schedule_settings import KeptBackups
from ods.settings.settings import VerifyPolicy
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import POLICY, bring_to, stores
from tests.servers import session

KEPT = KeptBackups(daily=1)
MONDAY = datetime.fromisoformat("2026-06-08T02:00")
NEXT = MONDAY + timedelta(hours=6)
TUESDAY = MONDAY + timedelta(days=1)
AHEAD = datetime.fromisoformat("2086-01-01T02:00")
SIGN = "what tells the database from another one"


@pytest.fixture(autouse=True)
async def without_backups(rows: asyncpg.Connection) -> None:
    await rows.execute("DELETE FROM adminapi.backups")


@pytest.fixture
async def job(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The create of an instance that works."""
    return await bring_to(instances, job_store, "Completed", name)


@pytest.fixture
def expiry(engine: AsyncEngine, instances: InstanceStore) -> BackupExpiry:
    return BackupExpiry(engine, instances.installation, KEPT, VerifyPolicy.WEEKLY)


@pytest.fixture
def records(tenant: Tenant) -> BackupRecords:
    return tenant.backups


def stored(sign: str | None = SIGN) -> StoredBackup:
    now = datetime.now(UTC)
    return StoredBackup(str(uuid4()), "file:///b", 1, 2, "0" * 64, "1" * 64, "18.1", False, now, now, sign)


async def requested(instances: InstanceStore, job: InstanceJob, due_at: datetime) -> InstanceJob:
    found = await instances.request_scheduled_backup(job.instance_id, due_at)
    assert found is not None
    return found.job


async def made(tenant: Tenant, job: InstanceJob, due_at: datetime, sign: str | None = SIGN) -> UUID:
    """A scheduled backup that is stored; it was requested at `due_at`."""
    backup = await requested(tenant.instances, job, due_at)
    await tenant.jobs.begin(backup)
    assert (await tenant.jobs.finish_backup(backup, stored(sign), VerifyPolicy.NEVER)).recorded
    return UUID(backup.makes_backup)


async def made_at(tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, at: datetime) -> UUID:
    """The same, made at a moment."""
    backup_id = await made(tenant, job, at)
    await rows.execute("UPDATE adminapi.backups SET createdat = $2 WHERE id = $1", backup_id, at)
    return backup_id


async def label(instances: InstanceStore, job: InstanceJob, **labels: str) -> None:
    await instances.change_attributes(job.instance_id, AttributeChanges(labels=labels))


async def is_due(tenant: Tenant, job: InstanceJob, due_at: datetime) -> bool:
    return job.instance_id in await tenant.scheduled_backups.due(due_at)


async def test_backup_is_requested_once_when_two_passes_have_one_time(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob
) -> None:
    both = await asyncio.gather(
        *(tenant.instances.request_scheduled_backup(job.instance_id, MONDAY) for _ in range(2)),
        return_exceptions=True,
    )
    assert sum(not isinstance(one, BaseException) and one is not None for one in both) == 1
    assert not await is_due(tenant, job, MONDAY)
    (backup,) = await rows.fetch("SELECT kind, dueat FROM adminapi.backups")
    assert tuple(backup) == ("scheduled", MONDAY)


async def test_failed_backup_is_not_requested_again_before_the_next_time(
    tenant: Tenant, job: InstanceJob
) -> None:
    backup = await requested(tenant.instances, job, MONDAY)
    await tenant.jobs.begin(backup)
    await tenant.jobs.fail(backup, "The store refuses.")
    assert await tenant.instances.request_scheduled_backup(job.instance_id, MONDAY) is None
    assert not await is_due(tenant, job, MONDAY)
    assert await is_due(tenant, job, NEXT)


async def test_time_is_still_due_when_a_request_was_refused(
    tenant: Tenant, job: InstanceJob, name: str
) -> None:
    rename = (await tenant.instances.request_rename(job.instance_id, f"{name} B")).job
    with pytest.raises(RefusedError):
        await tenant.instances.request_scheduled_backup(job.instance_id, MONDAY)
    await tenant.jobs.begin(rename)
    await tenant.jobs.finish_rename(rename, "iv|ciphertext|hmac")
    assert await is_due(tenant, job, MONDAY)
    assert await tenant.instances.request_scheduled_backup(job.instance_id, MONDAY) is not None


async def test_schedule_goes_on_when_a_time_was_served_while_a_clock_was_years_ahead(
    tenant: Tenant, job: InstanceJob
) -> None:
    await label(tenant.instances, job, backup="weekly", snapshot="weekly")
    await made(tenant, job, AHEAD)
    snapshot = await tenant.instances.request_scheduled_snapshot(job.instance_id, AHEAD)
    assert snapshot is not None
    assert (await tenant.jobs.begin(snapshot.job)).held
    assert await tenant.snapshots.store.finish(snapshot.job, "iv|ciphertext|hmac")
    assert await is_due(tenant, job, MONDAY)
    assert job.instance_id in await tenant.scheduled_snapshots.due(MONDAY)
    await made(tenant, job, MONDAY)
    assert await tenant.instances.request_scheduled_backup(job.instance_id, MONDAY) is None
    assert await tenant.instances.request_scheduled_snapshot(job.instance_id, MONDAY) is not None


@pytest.mark.parametrize("ahead", [timedelta(days=3), AHEAD - MONDAY], ids=["days", "years"])
async def test_both_backups_stay_when_the_database_was_unchanged_while_a_clock_was_ahead(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry, ahead: timedelta
) -> None:
    """The wrong time has taken the place of the right one, which may have been that of the later backup."""
    earlier = await made_at(tenant, rows, job, MONDAY)
    await rows.execute("UPDATE adminapi.backups SET unchangedat = $2 WHERE id = $1", earlier, MONDAY + ahead)
    later = await made_at(tenant, rows, job, TUESDAY)
    await expiry.compute()
    for backup_id in (earlier, later):
        assert await expires(tenant, backup_id) == datetime.fromisoformat("2026-06-11")


async def test_time_of_the_schedule_counts_until_now_when_the_clock_of_temporal_is_ahead(
    tenant: Tenant, job: InstanceJob
) -> None:
    backup_id = await made(tenant, job, MONDAY)
    assert await tenant.scheduled_backups.record_unchanged(job.instance_id, backup_id, AHEAD)
    unchanged_at = (await tenant.backups.get(backup_id)).backup.unchanged_at
    assert unchanged_at is not None
    assert timedelta() <= datetime.now(UTC).replace(tzinfo=None) - unchanged_at < timedelta(minutes=1)


async def test_verification_is_due_when_the_last_one_was_made_while_a_clock_was_years_ahead(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob
) -> None:
    await verify(tenant, await made(tenant, job, MONDAY))
    await rows.execute("UPDATE adminapi.backups SET verifiedat = $1", AHEAD)
    backup = await requested(tenant.instances, job, TUESDAY)
    await tenant.jobs.begin(backup)
    assert (await tenant.jobs.finish_backup(backup, stored(), VerifyPolicy.WEEKLY)).verify


@pytest.mark.parametrize("state", ["Error", "Deleted", "Delete_Failed", "Pending_Delete"])
async def test_nothing_is_due_of_an_instance_that_does_not_work(
    tenant: Tenant, name: str, state: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, state, name)
    assert not await is_due(tenant, job, MONDAY)


async def test_label_says_how_often_a_backup_is_due(tenant: Tenant, job: InstanceJob) -> None:
    await label(tenant.instances, job, backup="never")
    assert not await is_due(tenant, job, MONDAY)
    await label(tenant.instances, job, backup="daily")
    await made(tenant, job, MONDAY)
    assert not await is_due(tenant, job, NEXT)
    assert await is_due(tenant, job, TUESDAY)
    await label(tenant.instances, job, backup="weekly")
    assert not await is_due(tenant, job, TUESDAY)
    assert await is_due(tenant, job, MONDAY + timedelta(days=7))
    await label(tenant.instances, job, backup="sometimes")
    assert await is_due(tenant, job, NEXT)


async def test_week_is_not_over_when_its_backup_has_failed(tenant: Tenant, job: InstanceJob) -> None:
    await label(tenant.instances, job, backup="weekly")
    backup = await requested(tenant.instances, job, MONDAY)
    assert not await is_due(tenant, job, TUESDAY)  # it may still be made
    await tenant.jobs.begin(backup)
    await tenant.jobs.fail(backup, "The store refuses.")
    assert await is_due(tenant, job, TUESDAY)


async def test_instance_that_waited_longest_is_first(
    tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    jobs = [await bring_to(tenant.instances, tenant.jobs, "Completed", f"{name} {n}") for n in range(3)]
    first, second, third = jobs
    await made(tenant, first, MONDAY + timedelta(minutes=1))
    await made(tenant, second, MONDAY)
    due = await tenant.scheduled_backups.due(TUESDAY)
    assert list(due) == [third.instance_id, second.instance_id, first.instance_id]


async def test_jobs_that_are_under_way_are_those_of_the_schedule(
    tenant: Tenant, job: InstanceJob, name: str
) -> None:
    other = await bring_to(tenant.instances, tenant.jobs, "Completed", f"{name} B")
    await tenant.instances.request_backup(other.instance_id, "requested")
    backup = await requested(tenant.instances, job, MONDAY)
    assert await tenant.scheduled_backups.under_way() == [backup]
    await tenant.jobs.begin(backup)
    assert await tenant.scheduled_backups.under_way() == [backup]
    await tenant.jobs.finish_backup(backup, stored(), VerifyPolicy.NEVER)
    assert await tenant.scheduled_backups.under_way() == []


async def test_last_backup_counts_when_nothing_about_the_instance_differs(
    tenant: Tenant, job: InstanceJob
) -> None:
    assert await tenant.scheduled_backups.last_complete(job.instance_id) is None
    earlier = await made(tenant, job, MONDAY)
    backup_id = await made(tenant, job, NEXT)
    last = await tenant.scheduled_backups.last_complete(job.instance_id)
    assert last is not None
    assert (last.backup.id, last.database) == (backup_id, job.database)
    assert last.backup.change_sign == SIGN
    await tenant.backups.mark_deleted(backup_id)
    assert await tenant.scheduled_backups.last_complete(job.instance_id) is None  # and not the earlier one
    assert (await tenant.backups.get(earlier)).status == "Completed"


@pytest.mark.parametrize("what", ["description", "label", "contexts", "name", "no sign", "verification"])
async def test_last_backup_does_not_count_when_something_differs(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, name: str, what: str
) -> None:
    backup_id = await made(tenant, job, MONDAY, None if what == "no sign" else SIGN)
    changes = {
        "description": AttributeChanges(description="Another one"),
        "label": AttributeChanges(labels={"district": "1"}),
        "contexts": AttributeChanges(contexts={"year": "2027"}),
    }
    if what in changes:
        await tenant.instances.change_attributes(job.instance_id, changes[what])
    elif what == "name":
        rename = (await tenant.instances.request_rename(job.instance_id, f"{name} B")).job
        await tenant.jobs.begin(rename)
        await tenant.jobs.finish_rename(rename, "iv|ciphertext|hmac")
    elif what == "verification":
        await tenant.backups.request_verification(backup_id)
        await tenant.backups.begin_verification(backup_id)
        await tenant.backups.finish_verification(backup_id, "A table is missing.")
    assert await tenant.scheduled_backups.last_complete(job.instance_id) is None


async def test_time_is_served_and_the_backup_stays_longer_when_the_database_is_unchanged(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    backup_id = await made_at(tenant, rows, job, MONDAY)
    await expiry.compute()
    assert await expires(tenant, backup_id) == datetime.fromisoformat("2026-06-10")
    assert await tenant.scheduled_backups.record_unchanged(job.instance_id, backup_id, TUESDAY)
    assert not await is_due(tenant, job, TUESDAY)
    await expiry.compute()
    assert await expires(tenant, backup_id) == datetime.fromisoformat("2026-06-11")


async def test_backup_does_not_expire_earlier_when_a_pass_is_late_and_the_database_unchanged(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    backup_id = await made_at(tenant, rows, job, TUESDAY)
    await expiry.compute()
    expected = await expires(tenant, backup_id)
    assert await tenant.scheduled_backups.record_unchanged(job.instance_id, backup_id, MONDAY)
    await expiry.compute()
    assert await expires(tenant, backup_id) == expected


def scheduled_backups(tenant: Tenant, policy: VerifyPolicy) -> ScheduledBackups:
    """Those of the tenant, of which others are verified."""
    factory = JobFactory(tenant.instances.installation, POLICY, tenant.name)
    return ScheduledBackups(tenant.engine, factory, policy)


@pytest.mark.parametrize(
    ("policy", "days", "expected"),
    [
        (VerifyPolicy.WEEKLY, 6, "Completed"),
        (VerifyPolicy.WEEKLY, 6.9, "Pending"),  # it ended some time after its time of the schedule
        (VerifyPolicy.WEEKLY, 300, "Pending"),
        (VerifyPolicy.ALWAYS, 6, "Completed"),
        (VerifyPolicy.ALWAYS, 6.9, "Pending"),
        (VerifyPolicy.NEVER, 300, "Completed"),
    ],
)
async def test_backup_of_an_unchanged_database_is_verified_again_after_a_week(
    tenant: Tenant,
    rows: asyncpg.Connection,
    job: InstanceJob,
    policy: VerifyPolicy,
    days: float,
    expected: str,
) -> None:
    backup_id = await made(tenant, job, MONDAY)
    await verify(tenant, backup_id)
    ago = timedelta(days=days)
    await rows.execute("UPDATE adminapi.backups SET verifiedat = verifiedat - $1::interval", ago)
    scheduled = scheduled_backups(tenant, policy)
    assert await scheduled.record_unchanged(job.instance_id, backup_id, TUESDAY)
    assert (await tenant.backups.get(backup_id)).backup.verification == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(VerifyPolicy.WEEKLY, None), (VerifyPolicy.ALWAYS, "Pending"), (VerifyPolicy.NEVER, None)],
)
async def test_backup_of_an_unchanged_database_is_not_verified_weekly_when_another_one_of_it_is(
    tenant: Tenant, job: InstanceJob, policy: VerifyPolicy, expected: str | None
) -> None:
    await verify(tenant, await made(tenant, job, MONDAY))
    backup_id = await made(tenant, job, NEXT)
    scheduled = scheduled_backups(tenant, policy)
    assert await scheduled.record_unchanged(job.instance_id, backup_id, TUESDAY)
    assert (await tenant.backups.get(backup_id)).backup.verification == expected


async def test_verification_goes_on_when_the_database_is_found_unchanged_meanwhile(
    tenant: Tenant, job: InstanceJob
) -> None:
    backup_id = await made(tenant, job, MONDAY)
    await tenant.backups.request_verification(backup_id)
    assert await tenant.backups.begin_verification(backup_id) is not None
    assert await tenant.scheduled_backups.record_unchanged(job.instance_id, backup_id, TUESDAY)
    assert (await tenant.backups.get(backup_id)).backup.verification == "InProgress"


@pytest.mark.parametrize("what", ["deleted", "damaged", "busy", "of another"])
async def test_database_does_not_count_as_unchanged_when_its_backup_or_state_changed_meanwhile(
    tenant: Tenant, job: InstanceJob, name: str, what: str
) -> None:
    backup_id, instance = await made(tenant, job, MONDAY), job
    if what == "deleted":
        await tenant.backups.mark_deleted(backup_id)
    elif what == "damaged":
        await verify(tenant, backup_id, "A table is missing.")
    elif what == "busy":
        await tenant.instances.request_rename(job.instance_id, f"{name} B")
    else:
        instance = await bring_to(tenant.instances, tenant.jobs, "Completed", f"{name} B")
    record = tenant.scheduled_backups.record_unchanged
    assert not await record(instance.instance_id, backup_id, TUESDAY)


async def expires(tenant: Tenant, backup_id: UUID) -> datetime | None:
    return (await tenant.backups.get(backup_id)).backup.expires_at


async def deleted(expiry: BackupExpiry) -> list[UUID]:
    """Delete what has expired, as if each later backup were stored; returns which that was."""
    await expiry.compute()
    gone = []
    for expired in await expiry.due():
        backup_id = expired.backup.id
        survivors = await expiry.survivors(backup_id) if expired.needs_survivor else []
        if await expiry.delete(backup_id, survivors[0].id if survivors else None):
            gone.append(backup_id)
    return gone


async def test_expired_backups_are_deleted_but_the_last_complete_one(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    made_then = [await made_at(tenant, rows, job, MONDAY + timedelta(days=day)) for day in range(3)]
    failed = await requested(tenant.instances, job, MONDAY + timedelta(days=3))
    await tenant.jobs.begin(failed)
    await tenant.jobs.fail(failed, "The store refuses.")
    assert await deleted(expiry) == made_then[:2]
    assert await deleted(expiry) == []
    with pytest.raises(BackupNotFoundError):
        await tenant.backups.get(made_then[0])
    assert [it.id for it in await tenant.backups.deleted()] == made_then[:2]


@pytest.mark.parametrize("which", ["expired", "survivor"])
async def test_other_backups_are_deleted_when_another_session_has_locked_one(
    tenant: Tenant,
    rows: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
    expiry: BackupExpiry,
    which: str,
) -> None:
    days = [await made_at(tenant, rows, job, MONDAY + timedelta(days=day)) for day in range(3)]
    locked = days[0] if which == "expired" else days[2]
    async with session(registry_dsn) as forgotten, forgotten.transaction():
        await forgotten.execute("SELECT FROM adminapi.backups WHERE id = $1 FOR UPDATE", locked)
        async with asyncio.timeout(5):
            assert locked in await expiry.compute()
            assert await deleted(expiry) == ([days[1]] if which == "expired" else [])
    assert await deleted(expiry) == ([days[0]] if which == "expired" else days[:2])


async def test_passes_leave_a_backup_alone_when_another_session_has_locked_it(
    tenant: Tenant, rows: asyncpg.Connection, registry_dsn: str, job: InstanceJob
) -> None:
    backup_id = await made_at(tenant, rows, job, MONDAY)
    await verify(tenant, backup_id)
    its = (await tenant.backups.get(backup_id)).backup
    unchanged = (job.instance_id, backup_id, TUESDAY)
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        await forgotten.execute("SELECT FROM adminapi.backups WHERE id = $1 FOR UPDATE", backup_id)
        assert not await tenant.backups.record_gone(its)
        with pytest.raises(DBAPIError, match="could not obtain lock"):
            await tenant.scheduled_backups.record_unchanged(*unchanged)
    assert await tenant.scheduled_backups.record_unchanged(*unchanged)
    assert await tenant.backups.record_gone(its)
    gone = (await tenant.backups.get(backup_id)).backup
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        await forgotten.execute("SELECT FROM adminapi.backups WHERE id = $1 FOR UPDATE", backup_id)
        assert not await tenant.backups.record_back(gone, "s3://later/1")
    assert await tenant.backups.record_back(gone, "s3://later/1")


async def test_backup_is_not_recorded_gone_from_an_earlier_store_when_it_is_in_another_by_now(
    tenant: Tenant, rows: asyncpg.Connection, registry_dsn: str, job: InstanceJob
) -> None:
    """As when workers with two values of ODS_BACKUP_URL compare at once."""
    backup_id = await made_at(tenant, rows, job, MONDAY)
    its = (await tenant.backups.get(backup_id)).backup
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        await forgotten.execute("SELECT FROM adminapi.backups WHERE id = $1 FOR UPDATE", backup_id)
        await tenant.backups.record_moved(its, "s3://later/1")
    assert (await tenant.backups.get(backup_id)).backup.location == its.location
    for location in ("s3://later/1", "s3://latest/1"):  # the second is of what was read before the first
        await tenant.backups.record_moved(its, location)
    moved = (await tenant.backups.get(backup_id)).backup
    assert (moved.location, moved.verification) == ("s3://later/1", its.verification)
    assert not await tenant.backups.record_gone(its)
    assert await tenant.backups.record_gone(moved)
    gone = (await tenant.backups.get(backup_id)).backup
    assert await tenant.backups.record_back(gone, "s3://latest/1")
    assert (await tenant.backups.get(backup_id)).backup.location == "s3://latest/1"


async def test_last_backup_stays_when_an_earlier_one_was_made_while_the_clock_was_ahead(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    earlier = await made_at(tenant, rows, job, MONDAY)
    await rows.execute("UPDATE adminapi.backups SET createdat = $2 WHERE id = $1", earlier, AHEAD)
    last = await made_at(tenant, rows, job, TUESDAY)
    assert await deleted(expiry) == []
    assert [it.id for it in await expiry.survivors(earlier)] == [last]


async def test_no_backup_goes_for_one_that_the_pass_has_recorded(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    """It may be of a copy of the registry, which was stopped."""
    earlier = await made_at(tenant, rows, job, MONDAY)
    found = await made_at(tenant, rows, job, NEXT)
    await rows.execute("UPDATE adminapi.backups SET jobid = '' WHERE id = $1", found)
    assert await deleted(expiry) == []
    await made_at(tenant, rows, job, TUESDAY)
    assert set(await deleted(expiry)) == {earlier, found}


async def test_last_backup_stays_when_what_an_earlier_try_has_stored_is_a_backup_of_its_own(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    """It was recorded later, but its data are older."""
    last = await made_at(tenant, rows, job, MONDAY)
    other = await made_at(tenant, rows, job, TUESDAY)
    await rows.execute(
        "UPDATE adminapi.backups SET jobid = '', takenat = takenat - interval '1 hour' WHERE id = $1", other
    )
    assert last not in await deleted(expiry)
    assert await expiry.survivors(last) == []
    assert [it.id for it in await expiry.survivors(other)] == [last]


def lost(backup: Backup, stored: StoredBackup) -> LostBackup:
    """What another try to make this backup has stored, or what was recorded as it."""
    which = (backup.id, backup.ods_instance_id, backup.mark, backup.name)
    return LostBackup(*which, SCHEDULED, None, {}, backup.installation, stored)


async def test_backup_is_kept_as_long_as_it_was_right_when_a_copy_of_the_registry_has_made_one_meanwhile(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    own = await made_at(tenant, rows, job, MONDAY)
    assert await tenant.scheduled_backups.record_unchanged(job.instance_id, own, MONDAY + timedelta(days=20))
    await made_at(tenant, rows, job, MONDAY + timedelta(days=21))
    await expiry.compute()
    before = await expires(tenant, own)
    its = (await tenant.backups.get(own)).backup
    of_copy = lost(its, replace(stored(), taken_at=TUESDAY.replace(tzinfo=UTC)))
    assert await tenant.backups.record_lost(replace(of_copy, id=uuid4()), VerifyPolicy.WEEKLY)
    await expiry.compute()
    assert await expires(tenant, own) == before


async def test_last_backup_stays_when_an_earlier_try_was_recorded_later_and_the_clock_is_behind(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    earlier = await made_at(tenant, rows, job, MONDAY)
    other = stored()
    its = (await tenant.backups.get(earlier)).backup
    assert await tenant.backups.record_lost(lost(its, other), VerifyPolicy.NEVER)
    last = await made_at(tenant, rows, job, TUESDAY)
    await rows.execute(
        "UPDATE adminapi.backups SET takenat = takenat - interval '3 days' WHERE id = $1", last
    )
    await rows.execute(
        "UPDATE adminapi.backups SET createdat = $2, unchangedat = $2 WHERE id = $1", other.stored_id, NEXT
    )
    assert set(await deleted(expiry)) == {earlier, UUID(other.stored_id)}
    assert await expiry.survivors(last) == []


@pytest.mark.parametrize("policy", [VerifyPolicy.WEEKLY, VerifyPolicy.NEVER])
async def test_backup_that_is_recorded_again_stays_as_if_it_was_verified_and_right_until_then(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, engine: AsyncEngine, policy: VerifyPolicy
) -> None:
    """Whether it was, a registry that was put back to before it cannot tell."""
    backups = [await made_at(tenant, rows, job, at) for at in (MONDAY, TUESDAY)]
    its = [(await tenant.backups.get(backup_id)).backup for backup_id in backups]
    await rows.execute("DELETE FROM adminapi.backups")
    for one, at in zip(its, (MONDAY, TUESDAY), strict=True):
        one_stored = replace(stored(), stored_id=str(one.stored_id), taken_at=at.replace(tzinfo=UTC))
        assert await tenant.backups.record_lost(lost(one, one_stored), policy)
    expiry = BackupExpiry(engine, tenant.instances.installation, KEPT, policy)
    assert await deleted(expiry) == []
    (last,) = await rows.fetch("SELECT * FROM adminapi.backups WHERE id = $1", backups[1])
    assert last["expiresat"] is None
    assert last["verification"] == (None if policy is VerifyPolicy.NEVER else "Pending")
    next_one = await made_at(tenant, rows, job, TUESDAY + timedelta(days=2))
    if policy is not VerifyPolicy.NEVER:
        assert await deleted(expiry) == [], "which may have been verified, for one that is not"
        for backup_id in (*backups, next_one):
            await verify(tenant, backup_id)
    assert set(await deleted(expiry)) == set(backups)


async def test_backup_that_is_not_whole_is_none_for_which_another_one_may_go(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    await made_at(tenant, rows, job, MONDAY)
    damaged = await made_at(tenant, rows, job, TUESDAY)
    await tenant.backups.request_verification(damaged)
    await tenant.backups.begin_verification(damaged)
    await tenant.backups.finish_verification(damaged, "A table is missing.")
    assert await deleted(expiry) == []


async def test_backup_stays_as_the_first_of_its_day_when_the_one_before_is_damaged(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    damaged, intact = [await made_at(tenant, rows, job, at) for at in (MONDAY, NEXT)]
    await expiry.compute()
    assert await expires(tenant, intact) == NEXT + timedelta(days=1)
    await verify(tenant, damaged, "A table is missing.")
    await expiry.compute()
    for backup_id in (damaged, intact):
        assert await expires(tenant, backup_id) == datetime.fromisoformat("2026-06-10")


async def test_verified_backup_stays_until_a_later_one_is_verified(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry, engine: AsyncEngine
) -> None:
    verified = await made_at(tenant, rows, job, MONDAY)
    await verify(tenant, verified)
    later = await made_at(tenant, rows, job, TUESDAY)
    assert await deleted(expiry) == [], "which is not to be verified"
    await tenant.backups.request_verification(later)
    assert await deleted(expiry) == [], "whose verification waits"
    never = BackupExpiry(engine, tenant.instances.installation, KEPT, VerifyPolicy.NEVER)
    assert await deleted(never) == [], "whose verification waits, by request"
    await verify(tenant, later)
    assert await deleted(expiry) == [verified]


async def test_verified_backup_stays_when_a_later_verdict_on_it_may_be_wrong(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    """As when its folder was away for a pass, or the disk was full."""
    verified = await made_at(tenant, rows, job, MONDAY)
    await verify(tenant, verified)
    await verify(tenant, verified, "No space left on device.")
    later = await made_at(tenant, rows, job, TUESDAY)
    assert await deleted(expiry) == []
    await verify(tenant, later)
    assert await deleted(expiry) == [verified]


async def test_verified_backup_goes_for_another_one_when_none_is_verified_any_more(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, engine: AsyncEngine
) -> None:
    verified = await made_at(tenant, rows, job, MONDAY)
    await verify(tenant, verified)
    await made_at(tenant, rows, job, TUESDAY)
    never = BackupExpiry(engine, tenant.instances.installation, KEPT, VerifyPolicy.NEVER)
    assert await deleted(never) == [verified]


async def test_next_backup_is_verified_when_the_one_of_this_week_was_found_damaged_since(
    tenant: Tenant, job: InstanceJob
) -> None:
    async def is_to_be_verified(due_at: datetime) -> bool:
        backup = await requested(tenant.instances, job, due_at)
        await tenant.jobs.begin(backup)
        return (await tenant.jobs.finish_backup(backup, stored(), VerifyPolicy.WEEKLY)).verify

    verified = await made(tenant, job, MONDAY)
    await verify(tenant, verified)
    assert not await is_to_be_verified(NEXT)
    await verify(tenant, verified, "A table is missing.")
    assert await is_to_be_verified(TUESDAY)


async def verify(tenant: Tenant, backup_id: UUID, error: str | None = None) -> None:
    """Record that the backup has passed its verification, or why it has not."""
    await tenant.backups.request_verification(backup_id)
    await tenant.backups.begin_verification(backup_id)
    await tenant.backups.finish_verification(backup_id, error)


async def test_backup_of_an_instance_stays_when_it_was_gone_and_is_back(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    backup_id = await made_at(tenant, rows, job, MONDAY)
    await expiry.compute()
    assert not await expiry.delete(backup_id, None)


async def test_last_backup_goes_when_a_client_has_requested_a_later_one(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    scheduled = await made_at(tenant, rows, job, MONDAY)
    own = (await tenant.instances.request_backup(job.instance_id, "requested")).job
    assert await deleted(expiry) == []  # it is not stored yet
    await tenant.jobs.begin(own)
    await tenant.jobs.finish_backup(own, stored(), VerifyPolicy.NEVER)
    assert await deleted(expiry) == [scheduled]
    assert await expires(tenant, UUID(own.makes_backup)) is None


async def end_earlier(rows: asyncpg.Connection, by: timedelta) -> None:
    await rows.execute(
        "UPDATE adminapi.dbinstances SET lastmodifieddate = lastmodifieddate - $1::interval", by
    )


async def test_last_backup_goes_when_its_instance_has_been_gone_for_ninety_days(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    earlier, backup_id = [await made_at(tenant, rows, job, at) for at in (MONDAY, TUESDAY)]
    assert await deleted(expiry) == [earlier]
    delete = (await tenant.instances.request_delete(job.instance_id)).job
    await tenant.jobs.begin(delete)
    assert await deleted(expiry) == []
    await tenant.jobs.finish_delete(delete)
    await end_earlier(rows, timedelta(days=91))
    assert await deleted(expiry) == []  # it may come back
    purge = (await tenant.instances.request_purge(job.instance_id)).job
    await tenant.jobs.begin(purge)
    assert await deleted(expiry) == []
    await tenant.jobs.finish_purge(purge)
    await end_earlier(rows, timedelta(days=89))
    assert await deleted(expiry) == []  # the purge may have been wrong
    await end_earlier(rows, timedelta(days=2))
    assert await deleted(expiry) == [backup_id]


async def test_last_backup_goes_with_its_instance_when_a_restored_registry_let_it_stay_until_the_next(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    backup_id = await made_at(tenant, rows, job, MONDAY)
    await tenant.cancellations.hold_drops()
    assert await deleted(expiry) == []
    assert await expires(tenant, backup_id) is None
    delete = (await tenant.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    await tenant.jobs.begin(delete)
    await tenant.jobs.finish_delete(delete)
    await end_earlier(rows, timedelta(days=89))
    assert await deleted(expiry) == []
    row = await tenant.queries.any_instance(job.instance_id)
    assert row is not None
    assert row.last_modified is not None
    ended = row.last_modified.replace(hour=0, minute=0, second=0, microsecond=0)
    assert await expires(tenant, backup_id) == ended + timedelta(days=2)
    await end_earlier(rows, timedelta(days=2))
    assert await deleted(expiry) == [backup_id]


async def test_last_backup_stays_when_its_instance_is_deleted_whose_database_was_lost(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    earlier, last = [await made_at(tenant, rows, job, at) for at in (MONDAY, TUESDAY)]
    delete = (await tenant.instances.request_delete(job.instance_id)).job
    await tenant.jobs.begin(delete)
    assert await tenant.jobs.finish_delete(delete, is_lost=True)
    assert await deleted(expiry) == [earlier]
    assert not await expiry.delete(last, None)


async def test_last_backup_stays_when_the_registry_does_not_know_its_instance_any_more(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    """The registry was restored to before the create, and the pass has recorded what is in the store."""
    earlier, last = [await made_at(tenant, rows, job, at) for at in (MONDAY, TUESDAY)]
    await rows.execute("DELETE FROM adminapi.dbinstances WHERE mark = $1", UUID(job.mark))
    assert await deleted(expiry) == [earlier]
    assert not await expiry.delete(last, None)


async def test_backup_stays_while_an_instance_is_being_restored_from_it(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    first = await made_at(tenant, rows, job, MONDAY)
    await made_at(tenant, rows, job, TUESDAY)
    await rows.execute(
        "UPDATE adminapi.dbinstances SET state = 'InProgress', operation = 'Create',"
        " arguments = jsonb_build_object('origin', jsonb_build_object('backup_id', $1::text))",
        str(first),
    )
    assert await deleted(expiry) == []


@pytest.mark.parametrize("resets", [False, True], ids=["restore", "reset"])
async def test_backup_stays_for_another_request_when_a_restore_of_it_has_failed(
    tenant: Tenant,
    rows: asyncpg.Connection,
    job: InstanceJob,
    expiry: BackupExpiry,
    name: str,
    resets: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Its time has ended while the job has waited for the end of an outage."""
    first = await made_at(tenant, rows, job, MONDAY)
    await made_at(tenant, rows, job, TUESDAY)
    origin = BackupOrigin(str(first))
    if resets:
        restore = (await tenant.instances.request_reset(job.instance_id, origin=origin)).job
    else:
        restore = (await tenant.instances.reserve(f"{name} B", Template.MINIMAL, origin=origin)).job
    await tenant.jobs.begin(restore)
    assert await deleted(expiry) == []
    assert await tenant.jobs.fail(restore, "The store is away.", outage=True)
    survivor, *_ = await expiry.survivors(first)
    assert not await expiry.delete(first, survivor.id), "by a pass that has begun before"
    assert await deleted(expiry) == []
    kept_until = await expires(tenant, first)
    assert kept_until is not None
    assert kept_until > datetime.now(UTC).replace(tzinfo=None) + timedelta(days=6)
    await rows.execute("UPDATE adminapi.backups SET keptuntil = keptuntil - interval '8 days'")
    assert await deleted(expiry) == [first]


@pytest.mark.parametrize("begun", [False, True], ids=["waits", "runs"])
async def test_backup_stays_for_another_request_when_confirm_has_cancelled_a_reset_to_it(
    tenant: Tenant,
    rows: asyncpg.Connection,
    engine: AsyncEngine,
    job: InstanceJob,
    expiry: BackupExpiry,
    begun: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    first = await made_at(tenant, rows, job, MONDAY)
    await made_at(tenant, rows, job, TUESDAY)
    instances, jobs = stores(engine)  # with ODS_TRASH_DAYS=0
    reset = (await instances.request_reset(job.instance_id, origin=BackupOrigin(str(first)))).job
    if begun:
        await jobs.begin(reset)
    assert [one.job_id for one in await tenant.cancellations.hold_drops()] == [reset.job_id]
    assert await deleted(expiry) == []


async def test_backup_of_another_installation_stays(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    await made_at(tenant, rows, job, MONDAY)
    await made_at(tenant, rows, job, TUESDAY)
    await rows.execute("UPDATE adminapi.backups SET installation = gen_random_uuid()")
    assert await deleted(expiry) == []


async def test_backup_stays_when_the_setting_keeps_all(
    tenant: Tenant, rows: asyncpg.Connection, engine: AsyncEngine, job: InstanceJob, expiry: BackupExpiry
) -> None:
    backups = [await made_at(tenant, rows, job, MONDAY + timedelta(days=day)) for day in range(2)]
    await expiry.compute()
    assert None not in [await expires(tenant, it) for it in backups]
    assert await deleted(BackupExpiry(engine, tenant.instances.installation, None, VerifyPolicy.NEVER)) == []
    assert [await expires(tenant, it) for it in backups] == [None, None]


async def test_survivor_is_not_deleted_by_a_client_while_the_expired_one_goes(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob, expiry: BackupExpiry
) -> None:
    expired = await made_at(tenant, rows, job, MONDAY)
    survivor = await made_at(tenant, rows, job, TUESDAY)
    await expiry.compute()
    async with rows.transaction():
        await rows.execute("UPDATE adminapi.backups SET deletedat = now() WHERE id = $1", survivor)
        async with asyncio.timeout(5):
            assert not await expiry.delete(expired, survivor)
    assert not await expiry.delete(expired, survivor)


async def test_snapshot_is_requested_once_for_each_time(
    tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob
) -> None:
    assert job.instance_id in await tenant.scheduled_snapshots.due(MONDAY)
    snapshot = await tenant.instances.request_scheduled_snapshot(job.instance_id, MONDAY)
    assert snapshot is not None
    assert snapshot.snapshot.due_at == MONDAY
    assert await tenant.scheduled_snapshots.under_way() == [snapshot.job]
    assert job.instance_id not in await tenant.scheduled_snapshots.due(MONDAY)
    await tenant.jobs.begin(snapshot.job)
    await tenant.jobs.fail(snapshot.job, "The disk is full.")
    assert await tenant.scheduled_snapshots.under_way() == []
    assert await tenant.instances.request_scheduled_snapshot(job.instance_id, MONDAY) is None
    assert job.instance_id in await tenant.scheduled_snapshots.due(NEXT)


async def test_label_says_how_often_a_snapshot_is_due(tenant: Tenant, job: InstanceJob) -> None:
    await label(tenant.instances, job, snapshot="weekly", backup="never")
    snapshot = await tenant.instances.request_scheduled_snapshot(job.instance_id, MONDAY)
    assert snapshot is not None
    await tenant.jobs.begin(snapshot.job)
    await tenant.snapshots.store.finish(snapshot.job, "iv|ciphertext|hmac")
    assert job.instance_id not in await tenant.scheduled_snapshots.due(TUESDAY)
    assert job.instance_id in await tenant.scheduled_snapshots.due(MONDAY + timedelta(days=7))
    await label(tenant.instances, job, snapshot="never")
    assert job.instance_id not in await tenant.scheduled_snapshots.due(MONDAY + timedelta(days=7))
