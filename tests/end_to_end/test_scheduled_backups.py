"""Backups of a schedule: which instances get one, how many at a time, and which backups go."""

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pyrage
import pytest
from pyrage import x25519
from sqlalchemy import exc
from temporalio.client import Client, ScheduleBackfill, ScheduleOverlapPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities import scheduled_requests
from activities.errors import OUTAGE
from activities.scheduled_requests import ScheduledReport, ScheduledRequests
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.recovery.compare.findings import Drift, DriftKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.temporal import schedules
from ods.tenants.tenant import Tenant, open_tenants
from tests.end_to_end.conftest import Operator, cleaned
from tests.end_to_end.steps import created
from tests.servers import INSTALLATION, delete_schedules, make_settings, service_dsn, session
from workflows.passes import Reconcile

pytestmark = pytest.mark.long

FIRST = datetime(2026, 6, 8, 2, tzinfo=UTC)
SECOND = FIRST + timedelta(days=1)


@pytest.fixture
def verify() -> str:
    """Which backups are verified without a request."""
    return "never"


@pytest.fixture
def registry_concurrency() -> int:
    """Registry activities that the worker runs at once, beside those that wait for jobs."""
    return 50


@pytest.fixture
def settings(
    postgres: EmbeddedPostgres, registry_dsn: str, store: Path, verify: str, registry_concurrency: int
) -> Settings:
    return make_settings(
        postgres,
        registry_dsn,
        backup_url=store.as_uri(),
        backup_verify=verify,
        backup_cron="0 2 * * *",
        backup_keep="daily=1",
        registry_concurrency=registry_concurrency,
    )


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduled_requests, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(scheduled_requests, "_PAUSE_SECONDS", 0.05)


@pytest.fixture
def requests(tenant: Tenant, operator: Operator) -> ScheduledRequests:
    return ScheduledRequests(tenant, operator.starter.start)


async def passed(requests: ScheduledRequests, due_at: datetime) -> ScheduledReport:
    """What a pass has requested at a time of the schedule."""
    return await ActivityEnvironment().run(requests.request_scheduled_backups, due_at)


async def backups_of(api: httpx.AsyncClient, job: InstanceJob) -> list[dict[str, Any]]:
    """The scheduled backups of an instance, the newest first."""
    filters = f"kind=scheduled&instanceId={job.instance_id}"
    found: list[dict[str, Any]] = (await api.get(f"/v2/backups?{filters}")).json()
    return found


async def all_stored(tenant: Tenant) -> None:
    async def is_idle() -> bool:
        return not await tenant.scheduled_backups.under_way()

    await wait_until(is_idle, 60)


async def write(postgres: EmbeddedPostgres, job: InstanceJob, statement: str) -> None:
    """Write to the database of an instance, in a session that ends."""
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(statement)


def folder_of(backup: dict[str, Any]) -> Path:
    return Path(backup["location"].removeprefix("file://"))


@pytest.mark.usefixtures("workers")
async def test_each_instance_gets_a_backup_and_no_other_until_it_has_changed(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    name: str,
) -> None:
    jobs = [await created(operator, f"{name} {number}") for number in range(3)]
    assert await passed(requests, FIRST) == ScheduledReport(requested=3)
    await all_stored(tenant)
    assert await passed(requests, FIRST) == ScheduledReport()
    changed = jobs[1]
    await write(postgres, changed, "CREATE TABLE new (id int)")
    assert await passed(requests, SECOND) == ScheduledReport(requested=1, unchanged=2)
    await all_stored(tenant)
    assert [len(await backups_of(api, job)) for job in jobs] == [1, 2, 1]
    (newest, _) = await backups_of(api, changed)
    assert (newest["status"], newest["kind"]) == ("Completed", "scheduled")
    assert await passed(requests, SECOND + timedelta(days=1)) == ScheduledReport(unchanged=3)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("what", ["sequence", "reset", "store", "dump", "damaged", "encryption", "busy"])
async def test_instance_gets_another_backup_when_it_is_not_certain_that_the_last_one_will_do(
    operator: Operator,
    tenant: Tenant,
    settings: Settings,
    postgres: EmbeddedPostgres,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    name: str,
    what: str,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "CREATE SEQUENCE numbers")
    await passed(requests, FIRST)
    await all_stored(tenant)
    (backup,) = await backups_of(api, job)
    if what == "sequence":
        await write(postgres, job, "SELECT nextval('numbers')")
    elif what == "reset":
        reset = (await operator.instances.request_reset(job.instance_id, "Minimal")).job
        await operator.starter.start(reset)
        assert await operator.ended(reset) is JobStatus.COMPLETED
    elif what == "store":
        shutil.rmtree(folder_of(backup))
    elif what == "dump":
        (dump,) = (it for it in folder_of(backup).iterdir() if it.name != "manifest.json")
        dump.unlink()
    elif what == "damaged":
        (folder_of(backup) / "manifest.json").write_text("{}")
    async with _another(what, settings, operator, requests) as chosen, _session_in(what, postgres, job):
        assert await passed(chosen, SECOND) == ScheduledReport(requested=1)
        await all_stored(tenant)
    newest, *_ = await backups_of(api, job)
    assert newest["status"] == "Completed", newest


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("verify", ["weekly"])
async def test_unchanged_instance_gets_another_backup_when_its_only_one_was_damaged_in_the_store(
    operator: Operator,
    tenant: Tenant,
    settings: Settings,
    temporal: Client,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await passed(requests, FIRST)
    await all_stored(tenant)
    await wait_until(_is_verified(api, job, "Completed"), 60)
    (backup,) = await backups_of(api, job)
    dump = folder_of(backup) / "database.dump"
    dump.write_bytes(bytes(dump.stat().st_size))
    assert await passed(requests, SECOND) == ScheduledReport(unchanged=1)
    assert await _is_verified(api, job, "Completed")()
    await rows.execute("UPDATE adminapi.backups SET verifiedat = verifiedat - interval '7 days'")
    assert await passed(requests, SECOND + timedelta(days=6)) == ScheduledReport(unchanged=1)
    await temporal.execute_workflow(
        Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
    await wait_until(_is_verified(api, job, "Error"), 60)
    assert await passed(requests, SECOND + timedelta(days=7)) == ScheduledReport(requested=1)
    await all_stored(tenant)
    await wait_until(_is_verified(api, job, "Completed"), 60)


def _is_verified(api: httpx.AsyncClient, job: InstanceJob, verdict: str) -> Callable[[], Awaitable[bool]]:
    """Asks whether the verification of the newest backup has ended so."""

    async def is_verified() -> bool:
        newest, *_ = await backups_of(api, job)
        return bool(newest["verification"] == verdict)

    return is_verified


@asynccontextmanager
async def _another(
    what: str, settings: Settings, operator: Operator, requests: ScheduledRequests
) -> AsyncIterator[ScheduledRequests]:
    """The requests of a worker with other settings, if that is what differs."""
    if what != "encryption":
        yield requests
        return
    key = str(x25519.Identity.generate().to_public())
    async with open_tenants(settings.model_copy(update={"backup_recipients": key})) as (tenant,):
        yield ScheduledRequests(tenant, operator.starter.start)


@asynccontextmanager
async def _session_in(what: str, postgres: EmbeddedPostgres, job: InstanceJob) -> AsyncIterator[None]:
    """A session that has read the database of the instance a moment ago, if that is what differs."""
    if what != "busy":
        yield
        return
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("SELECT 1")
        yield


@pytest.mark.usefixtures("workers")
async def test_unchanged_instance_gets_a_backup_to_the_new_keys_when_they_have_changed_and_then_no_other(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    old, new = x25519.Identity.generate(), x25519.Identity.generate()
    days = (FIRST + timedelta(days=day) for day in range(5))

    async def passed_with(*identities: x25519.Identity) -> ScheduledReport:
        keys = tuple(str(identity.to_public()) for identity in identities)
        monkeypatch.setattr(Settings, "recipients", keys)
        report = await passed(requests, next(days))
        await all_stored(tenant)
        return report

    job = await created(operator, name)
    assert await passed_with(old) == ScheduledReport(requested=1)
    assert await passed_with(old, new) == ScheduledReport(requested=1)
    assert await passed_with(new, old) == ScheduledReport(unchanged=1)
    assert await passed_with(new) == ScheduledReport(requested=1)
    newest, *_ = await backups_of(api, job)
    dump = (folder_of(newest) / "database.dump.age").read_bytes()
    assert pyrage.decrypt(dump, [new]).startswith(b"PGDMP")
    manifest = folder_of(newest) / "manifest.json"
    assert json.loads(manifest.read_text())["recipients"] == [str(new.to_public())]


@pytest.mark.usefixtures("workers")
async def test_instances_follow_one_another_when_a_worker_has_one_place_for_them(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, requests: ScheduledRequests, name: str
) -> None:
    for number in range(4):
        await created(operator, f"{name} {number}")
    assert (await passed(requests, FIRST)).requested == 4
    await all_stored(tenant)
    overlaps = await rows.fetchval(
        "SELECT count(*) FROM adminapi.backups AS one JOIN adminapi.jobstatuses AS job USING (jobid),"
        " adminapi.backups AS later WHERE later.createdat > one.createdat"
        " AND later.createdat < job.finishedat"
    )
    assert overlaps == 0


@pytest.mark.usefixtures("workers")
async def test_requested_backup_has_a_place_while_those_of_the_schedule_wait_for_theirs(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    name: str,
) -> None:
    jobs = [await created(operator, f"{name} {number}") for number in range(3)]
    slow = jobs[0]
    await write(postgres, slow, "CREATE TABLE held (id int)")
    async with session(service_dsn(postgres, slow.database)) as holder:
        await holder.execute("BEGIN")
        await holder.execute("LOCK TABLE held")
        passing = asyncio.create_task(passed(requests, FIRST))
        await wait_until(_is_under_way(tenant, 1), 20)
        own = (await operator.instances.request_backup(jobs[2].instance_id, "requested")).job
        await operator.starter.start(own, "a client")
        assert await operator.ended(own) is JobStatus.COMPLETED
        assert not passing.done()
        assert await backups_of(api, jobs[1]) == []
        await holder.execute("ROLLBACK")
    assert (await passing).requested == 3
    await all_stored(tenant)


def _is_under_way(tenant: Tenant, count: int) -> Callable[[], Any]:
    async def is_under_way() -> bool:
        return len(await tenant.scheduled_backups.under_way()) == count

    return is_under_way


@pytest.mark.usefixtures("workers")
async def test_pass_goes_on_where_another_one_died_between_request_and_start(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, requests: ScheduledRequests, name: str
) -> None:
    for number in range(2):
        await created(operator, f"{name} {number}")

    async def die(job: InstanceJob) -> None:
        raise ApplicationError(f"Temporal is away: {job.job_id}")

    with pytest.raises(ApplicationError, match="away"):
        await passed(ScheduledRequests(tenant, die), FIRST)
    assert (await passed(requests, FIRST)).requested == 1
    await all_stored(tenant)
    assert await rows.fetchval("SELECT count(*) FROM adminapi.backups WHERE storedid IS NOT NULL") == 2


@pytest.mark.usefixtures("workers")
async def test_instance_that_another_job_works_on_gets_its_backup_afterwards(
    operator: Operator,
    tenant: Tenant,
    requests: ScheduledRequests,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = await created(operator, name)
    rename = (await operator.instances.request_rename(job.instance_id, f"{name} B")).job
    has_begun, due = asyncio.Event(), tenant.scheduled_backups.due

    async def due_when_it_begins(due_at: datetime) -> Sequence[int]:
        found = await due(due_at)
        has_begun.set()
        return found

    monkeypatch.setattr(tenant.scheduled_backups, "due", due_when_it_begins)
    passing = asyncio.create_task(passed(requests, FIRST))
    await has_begun.wait()
    other = await created(operator, f"{name} C")  # it was not there when the pass began
    assert not passing.done()
    await operator.starter.start(rename)
    assert (await passing).requested == 1
    await all_stored(tenant)
    assert other.instance_id in await due(FIRST.replace(tzinfo=None))


@pytest.mark.usefixtures("workers")
async def test_instance_is_left_to_the_next_time_when_it_stays_busy(
    operator: Operator, requests: ScheduledRequests, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await created(operator, name)
    await operator.instances.request_rename(job.instance_id, f"{name} B")
    monkeypatch.setattr(scheduled_requests, "_BUSY_SECONDS", 0)
    assert await passed(requests, FIRST) == ScheduledReport(refused=1)


@pytest.mark.usefixtures("workers")
async def test_recovered_instance_gets_its_backup_when_its_row_alone_was_lost(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    requests: ScheduledRequests,
    postgres: EmbeddedPostgres,
    api: httpx.AsyncClient,
    name: str,
) -> None:
    job = await created(operator, name)
    assert await passed(requests, FIRST) == ScheduledReport(requested=1)
    await all_stored(tenant)
    await rows.execute("DELETE FROM adminapi.dbinstances WHERE id = $1", job.instance_id)
    await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", job.ods_instance_id)
    assert len((await Recovery(tenant).apply()).done) == 1
    await write(postgres, job, "CREATE TABLE added_since ()")
    assert await passed(requests, SECOND) == ScheduledReport(requested=1)
    await all_stored(tenant)
    assert [backup["status"] for backup in await backups_of(api, job)] == ["Completed", "Completed"]
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED


@pytest.mark.usefixtures("workers")
async def test_pass_goes_on_when_one_instance_cannot_be_recorded(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = [await created(operator, f"{name} {number}") for number in range(2)]
    first = jobs[0]
    await rows.execute(
        "INSERT INTO adminapi.jobstatuses (jobid, status, createdat) VALUES ($1, 'Completed', now())",
        f"BackupInstanceJob-{first.ods_instance_id}-2",
    )
    assert await passed(requests, FIRST) == ScheduledReport(requested=1, refused=1)
    (line,) = [record.getMessage() for record in caplog.records if "Nothing is requested" in record.message]
    assert line.startswith(f"Nothing is requested of instance {first.instance_id}: IntegrityError at ")
    await all_stored(tenant)
    assert [len(await backups_of(api, job)) for job in jobs] == [0, 1]


@pytest.mark.usefixtures("workers", "ods_api")
@pytest.mark.parametrize("kind", ["request_scheduled_backups", "request_scheduled_snapshots"])
async def test_others_are_served_while_another_session_has_locked_the_row_of_one_and_then_that_one(
    operator: Operator, requests: ScheduledRequests, registry_dsn: str, name: str, kind: str
) -> None:
    locked, other = [await created(operator, f"{name} {number}") for number in range(2)]

    async def is_served() -> bool:
        return (await operator.instance(other)).job_number == other.number + 1

    async with session(registry_dsn) as forgotten:
        async with forgotten.transaction():
            its = "SELECT FROM adminapi.dbinstances WHERE id = $1 FOR UPDATE"
            await forgotten.execute(its, locked.instance_id)
            passing = asyncio.create_task(ActivityEnvironment().run(getattr(requests, kind), FIRST))
            await wait_until(is_served, 5)
            assert not passing.done()
        assert await passing == ScheduledReport(requested=2)
    jobs = [(await operator.instance(job)).job_number for job in (locked, other)]
    assert jobs == [locked.number + 1, other.number + 1]


async def test_pass_fails_as_an_outage_when_the_registry_is_away(
    tenant: Tenant, requests: ScheduledRequests, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await tenant.instances.reserve(name, "Minimal")).job
    await tenant.jobs.begin(job)
    await tenant.jobs.finish_create(job, "iv|ciphertext|hmac")

    async def request(instance_id: int, due_at: datetime) -> None:
        raise exc.OperationalError(f"{instance_id} {due_at}", None, Exception(), connection_invalidated=True)

    monkeypatch.setattr(tenant.instances, "request_scheduled_backup", request)
    with pytest.raises(ApplicationError) as raised:
        await passed(requests, FIRST)
    assert raised.value.type == OUTAGE


async def test_worker_that_stops_leaves_the_rest_of_a_pass_to_another_one(
    operator: Operator, tenant: Tenant, requests: ScheduledRequests, name: str
) -> None:
    del operator
    environment = ActivityEnvironment()
    for number in range(2):
        job = (await tenant.instances.reserve(f"{name} {number}", "Minimal")).job
        await tenant.jobs.begin(job)
        await tenant.jobs.finish_create(job, "iv|ciphertext|hmac")
    passing = asyncio.create_task(environment.run(requests.request_scheduled_backups, FIRST))
    await wait_until(_is_under_way(tenant, 1), 20)
    environment.worker_shutdown()
    with pytest.raises(ApplicationError, match="another one"):
        await passing


@pytest.mark.usefixtures("workers")
async def test_expired_backup_is_gone_from_registry_and_store_when_the_pass_has_come_by(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    requests: ScheduledRequests,
    api: httpx.AsyncClient,
    name: str,
) -> None:
    job = await created(operator, name)
    await passed(requests, FIRST)
    await all_stored(tenant)
    await rows.execute("UPDATE adminapi.backups SET createdat = '2026-06-08'")
    (expired,) = await backups_of(api, job)
    assert (await cleaned(tenant)).expired == 0  # it is the only one
    assert (await backups_of(api, job))[0]["expiresAt"] == "2026-06-10T00:00:00Z"
    await write(postgres, job, "CREATE TABLE new (id int)")
    await passed(requests, SECOND)
    await all_stored(tenant)
    suspicion = Drift(DriftKind.REGISTRY_PUT_BACK, "EdFi_Admin", "It is of yesterday.")
    assert (await cleaned(tenant, suspicion)).expired == 0
    assert folder_of(expired).is_dir()
    (later,) = [one for one in await backups_of(api, job) if one["id"] != expired["id"]]
    dump = folder_of(later) / "database.dump"
    dump.rename(dump.with_name("elsewhere"))
    assert (await cleaned(tenant)).expired == 0, "the later one is not in the store"
    dump.with_name("elsewhere").rename(dump)
    assert (await cleaned(tenant)).expired == 0, "the later one is verified first"
    await api.post(f"/v2/backups/{later['id']}/verify")
    await wait_until(_is_verified(api, job, "Completed"), 60)
    report = await cleaned(tenant)
    assert (report.expired, report.removed) == (1, 1)
    assert not folder_of(expired).exists()
    (kept,) = await backups_of(api, job)
    assert kept["id"] != expired["id"]
    assert folder_of(kept).is_dir()
    assert datetime.fromisoformat(kept["expiresAt"]) > datetime.now(UTC) + timedelta(days=1)
    removed = await rows.fetchval("SELECT count(*) FROM adminapi.audit WHERE method = 'REMOVE'")
    assert removed == 1


@pytest.fixture
async def schedule(temporal: Client) -> AsyncIterator[None]:
    """What a test makes of schedules is removed."""
    yield
    await delete_schedules(temporal)


@pytest.mark.usefixtures("workers", "schedule")
async def test_schedule_requests_what_was_due_at_its_time(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    await tenant.instances.change_attributes(job.instance_id, AttributeChanges(labels={"district": "1"}))
    await schedules.ensure(temporal, settings, INSTALLATION)
    handle = temporal.get_schedule_handle(schedules.BACKUPS)
    around = timedelta(minutes=1)
    await handle.backfill(
        ScheduleBackfill(FIRST - around, FIRST + around, overlap=ScheduleOverlapPolicy.ALLOW_ALL)
    )

    async def is_requested() -> bool:
        found = await rows.fetchval("SELECT count(*) FROM adminapi.backups WHERE dueat IS NOT NULL")
        return bool(found == 1)

    await wait_until(is_requested, 30)
    await all_stored(tenant)
    assert await rows.fetchval("SELECT dueat FROM adminapi.backups") == FIRST.replace(tzinfo=None)


@pytest.mark.parametrize("registry_concurrency", [1])
@pytest.mark.usefixtures("workers", "schedule")
async def test_jobs_end_while_passes_wait_for_them_when_a_worker_runs_one_registry_activity_at_once(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    postgres: EmbeddedPostgres,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    for number in range(3):
        job = await created(operator, f"{name} {number}")
        async with session(postgres.dsn(job.database)) as superuser:  # which the service may not read
            await superuser.execute("CREATE TABLE deployed (x int); REVOKE ALL ON deployed FROM PUBLIC")
    both = settings.model_copy(update={"snapshot_cron": settings.backup_cron})
    await schedules.ensure(temporal, both, INSTALLATION)
    around, at_once = timedelta(minutes=1), ScheduleOverlapPolicy.ALLOW_ALL
    for schedule in (schedules.BACKUPS, schedules.SNAPSHOTS):
        handle = temporal.get_schedule_handle(schedule)
        await handle.backfill(ScheduleBackfill(FIRST - around, FIRST + around, overlap=at_once))

    async def have_failed() -> bool:
        failed = await rows.fetchval(
            "SELECT count(*) FROM adminapi.jobstatuses WHERE status = 'Error' AND jobid LIKE 'Backup%'"
        )
        return bool(failed == 3)

    await wait_until(have_failed, 60)


@pytest.mark.usefixtures("schedule")
async def test_schedule_follows_the_setting_and_goes_with_it(temporal: Client, settings: Settings) -> None:
    await schedules.ensure(temporal, settings, INSTALLATION)
    assert await hours(temporal, schedules.BACKUPS) == {(2, 0)}
    assert await hours(temporal, schedules.SNAPSHOTS) is None
    assert await hours(temporal, schedules.SIZES) == {(1, 15)}
    handle = temporal.get_schedule_handle(schedules.BACKUPS)
    await handle.pause()
    changes = {"backup_cron": "CRON_TZ=America/Chicago 30 3 * * 1-5", "snapshot_cron": "0 4 * * *"}
    await schedules.ensure(temporal, settings.model_copy(update=changes), INSTALLATION)
    assert (await hours(temporal, schedules.BACKUPS) or {(0, 0)}) <= {(8, 30), (9, 30)}
    assert await hours(temporal, schedules.SNAPSHOTS) == {(4, 0)}
    described = await handle.describe()
    assert described.schedule.state.paused
    assert described.info.num_actions == 0
    none = settings.model_copy(update={"backup_cron": None, "snapshot_cron": ""})
    await schedules.ensure(temporal, none, INSTALLATION)
    assert await hours(temporal, schedules.BACKUPS) is None
    assert await hours(temporal, schedules.SNAPSHOTS) is None


@pytest.mark.usefixtures("schedule")
async def test_schedule_of_another_installation_is_not_removed(temporal: Client, settings: Settings) -> None:
    await schedules.ensure(temporal, settings, INSTALLATION)
    none = settings.model_copy(update={"backup_cron": None})
    with pytest.raises(schedules.ForeignScheduleError):
        await schedules.ensure(temporal, none, str(uuid.uuid4()))
    assert await hours(temporal, schedules.BACKUPS) is not None


async def hours(temporal: Client, name: str) -> set[tuple[int, int]] | None:
    """The hours and minutes (UTC) of the next runs of a schedule; None if there is none."""
    try:
        described = await temporal.get_schedule_handle(name).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return {(at.hour, at.minute) for at in described.info.next_action_times}


@pytest.mark.parametrize(
    "cron",
    ["*/15 8-18/2 1,15 JAN-dec SUN,sat", "59 23 31 12 6", "TZ=Europe/Berlin 0 2 * * MON-FRI", "* * * * *"],
)
@pytest.mark.usefixtures("schedule")
async def test_temporal_reads_what_the_settings_accept(
    temporal: Client, settings: Settings, cron: str
) -> None:
    accepted = make_settings_with(settings, cron)
    await schedules.ensure(temporal, accepted, INSTALLATION)
    assert await hours(temporal, schedules.BACKUPS)


def make_settings_with(settings: Settings, cron: str) -> Settings:
    """The settings with another schedule, checked as at a start."""
    return Settings(**{**dict(settings), "backup_cron": cron})


@pytest.mark.usefixtures("workers", "ods_api")
async def test_snapshots_are_made_at_their_times(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    requests: ScheduledRequests,
    name: str,
) -> None:
    jobs = [await created(operator, f"{name} {number}") for number in range(2)]
    for _ in range(2):
        run = ActivityEnvironment().run
        report = await run(requests.request_scheduled_snapshots, FIRST)
        assert report.requested in {2, 0}

    async def are_made() -> bool:
        found = [await tenant.snapshots.store.snapshots_of(job.instance_id) for job in jobs]
        return [[one.snapshot.status for one in its] for its in found] == [["Completed"]] * 2

    await wait_until(are_made, 60)
