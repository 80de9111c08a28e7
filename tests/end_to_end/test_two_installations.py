"""Two installations by mistake on one server, in one namespace, or with one store of backups.

Neither touches what is the other's.
"""

import asyncio
import base64
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec
from temporalio.testing import ActivityEnvironment

from activities import scheduled_requests
from activities.scheduled_requests import ScheduledRequests
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.observability.metrics.catalog import INSTRUMENTS
from ods.recovery.compare.findings import DriftKind
from ods.registry.backups.stores import BackupStores
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import Backup
from ods.settings.settings import Settings
from ods.temporal import schedules
from ods.temporal.client import data_converter
from ods.temporal.job_starter import JobStarter, started_jobs
from ods.tenants.backup_store import open_store
from ods.tenants.known_store import accept_store
from ods.tenants.tenant import Tenant, open_tenants
from tests import registries
from tests.end_to_end.conftest import Operator, cleaned
from tests.servers import (
    INSTALLATION,
    SUPERUSER_PASSWORD,
    delete_schedules,
    make_settings,
    scheduled,
    seeded,
    server_folder,
    service_dsn,
    session,
    unsafe_postgres,
)
from worker import WORKERS, run


async def test_worker_serves_only_when_a_copied_registry_was_confirmed(
    instances: InstanceStore,
    settings: Settings,
    registry_dsn: str,
    temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    job = (await instances.reserve(name, Template.MINIMAL)).job
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
        stop, status = asyncio.Event(), "SELECT status FROM adminapi.dbinstances WHERE id = $1"
        working = asyncio.create_task(run(settings, stop))
        try:
            done, _ = await asyncio.wait({working}, timeout=3)
            assert not done
            assert await rows.fetchval(status, job.instance_id) == "Pending"
            suspicion = {"kind": DriftKind.INSTALLATION_NOT_CONFIRMED, "tenant": "default"}
            assert INSTRUMENTS.get_sample_value("ods_drift", suspicion) == 1
            instances.installation.forget()
            await instances.installation.confirm(await instances.installation.state())

            async def completed() -> bool:
                return bool(await rows.fetchval(status, job.instance_id) == "Completed")

            await wait_until(completed, 30)
        finally:
            stop.set()
            await working
            await delete_schedules(temporal)


async def test_schedules_are_left_alone_when_another_installation_has_made_them(
    temporal: Client, settings: Settings
) -> None:
    async with scheduled(temporal, settings):
        other = str(uuid.uuid4())
        with pytest.raises(schedules.ForeignScheduleError, match="temporal schedule delete"):
            await schedules.require_own(temporal, other, "default")
        with pytest.raises(schedules.ForeignScheduleError, match=other):
            await schedules.ensure(temporal, settings, other)
        # An operator who deletes them one by one, as the error says: nothing is started before the last one.
        await temporal.get_schedule_handle(schedules.RECONCILE).delete()
        with pytest.raises(schedules.ForeignScheduleError, match=schedules.PENDING_SWEEP):
            await schedules.require_own(temporal, other, "default")


@pytest.mark.parametrize("keys", [(1, 2), (1, None), (None, 1)])
async def test_schedules_are_left_alone_when_another_installation_with_another_key_has_made_them(
    temporal: Client, settings: Settings, keys: tuple[int | None, int | None]
) -> None:
    first, second = (
        Client(temporal.service_client, data_converter=data_converter(with_payload_key(settings, key)))
        for key in keys
    )
    async with scheduled(first, settings):
        other = str(uuid.uuid4())
        with pytest.raises(schedules.ForeignScheduleError, match=INSTALLATION):
            await schedules.require_own(second, other, "default")
        with pytest.raises(schedules.ForeignScheduleError, match=other):
            await schedules.ensure(second, settings, other)
        await schedules.ensure(second, settings, INSTALLATION)


def with_payload_key(settings: Settings, key: int | None) -> Settings:
    """The settings of a process with this key; without one, if it is None."""
    text = None if key is None else SecretStr(base64.b64encode(bytes([key]) * 32).decode())
    return settings.model_copy(update={"payload_key": text})


@pytest.mark.parametrize("name", [schedules.BACKUPS, schedules.RECONCILE, schedules.SPARE_REFILL])
@pytest.mark.parametrize("workflow", ["Payroll", "Reconcile"])
@pytest.mark.parametrize("has_memo", [True, False])
async def test_schedule_is_left_alone_when_no_memo_tells_of_which_installation_it_is(
    temporal: Client, settings: Settings, name: str, workflow: str, *, has_memo: bool
) -> None:
    (unreadable,) = await data_converter(with_payload_key(settings, 7)).encode([INSTALLATION])
    memo = {"installation": unreadable} if has_memo else {}
    action = ScheduleActionStartWorkflow(workflow, id="payroll", task_queue="payroll", memo=memo)
    spec = ScheduleSpec(cron_expressions=["0 3 * * *"])
    await temporal.create_schedule(name, Schedule(action=action, spec=spec))
    try:
        with pytest.raises(schedules.ForeignScheduleError, match=r"another product's.*TEMPORAL_NAMESPACE"):
            await schedules.ensure(temporal, settings, INSTALLATION)
        left = (await temporal.get_schedule_handle(name).describe()).schedule.action
        assert isinstance(left, ScheduleActionStartWorkflow)
        assert (left.workflow, left.task_queue) == (workflow, "payroll")
    finally:
        await delete_schedules(temporal)


async def test_jobs_are_remembered_where_their_memo_can_be_read_when_keys_differ(
    temporal: Client, instances: InstanceStore, settings: Settings, name: str
) -> None:
    encrypted_text = Client(
        temporal.service_client, data_converter=data_converter(with_payload_key(settings, 0))
    )
    jobs = [(await instances.reserve(f"{name} {number}", Template.MINIMAL)).job for number in range(2)]
    for client, job in zip((temporal, encrypted_text), jobs, strict=True):
        await JobStarter(client, f"nothing-polls-{job.mark}").start(job)
    marks = [job.mark for job in jobs]

    async def remembered(client: Client) -> list[str]:
        return [job.mark for job in await started_jobs(client, "default") if job.mark in marks]

    try:
        async with asyncio.timeout(20):  # visibility is behind by a moment
            while await remembered(encrypted_text) != marks[::-1]:
                await asyncio.sleep(0.05)
        assert await remembered(temporal) == marks[:1]
    finally:
        for job in jobs:
            await temporal.get_workflow_handle(job.workflow_id).terminate()


@asynccontextmanager
async def original_server() -> AsyncIterator[tuple[EmbeddedPostgres, Path]]:
    """A server with a registry and templates, and the folder with its data folder."""
    with server_folder() as folder:
        server = unsafe_postgres(folder / "data", SUPERUSER_PASSWORD)
        async with seeded(server):
            await registries.prepare(server)
            await registries.clone(server, "EdFi_Admin")
            yield server, folder


@asynccontextmanager
async def copied(server: EmbeddedPostgres, folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A physical copy of the server in `folder`, which was stopped for it."""
    await server.stop()
    copying = await asyncio.create_subprocess_exec("cp", "-a", folder / "data", folder / "copy")
    assert await copying.wait() == 0
    await server.start()
    async with unsafe_postgres(folder / "copy", SUPERUSER_PASSWORD) as copy:
        yield copy


@asynccontextmanager
async def serving(
    server: EmbeddedPostgres, store: Path, temporal: Client
) -> AsyncIterator[tuple[Tenant, Operator]]:
    """The tenant whose registry and databases are on the server, with workers and scheduled backups."""
    settings = make_settings(
        server,
        service_dsn(server, "EdFi_Admin"),
        master_dsn=service_dsn(server, "postgres"),
        backup_url=store.as_uri(),
        backup_cron="0 2 * * *",
        backup_verify="never",
    )
    async with open_tenants(settings) as (tenant,), AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, tenant))
        starter = JobStarter(temporal, settings.registry_queue)
        yield tenant, Operator(tenant.instances, tenant.jobs, tenant.queries, starter, temporal)


async def backed_up(tenant: Tenant, operator: Operator, database: str, days_ago: int) -> None:
    """Change a database, and make its scheduled backup, as if that had been some days ago."""
    at = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
    server = tenant.settings.master_dsn.get_secret_value()
    async with session(f"{server.removesuffix('/postgres')}/{database}") as inside:
        await inside.execute(f"CREATE TABLE changed_{days_ago} ()")
    requests = ScheduledRequests(tenant, operator.starter.start)
    await ActivityEnvironment().run(requests.request_scheduled_backups, at)

    async def is_done() -> bool:
        return not await tenant.scheduled_backups.under_way()

    await wait_until(is_done, 60)
    async with session(tenant.settings.admin_dsn.get_secret_value()) as rows:
        made = "UPDATE adminapi.backups SET createdat = $1, takenat = $1, finishedat = $1 WHERE dueat = $1"
        await rows.execute(made, at.replace(tzinfo=None))


async def own_backups(tenant: Tenant) -> list[Backup]:
    own = uuid.UUID((await tenant.jobs.installation.require_confirmed()).id)
    made = await tenant.backups.made_by(own)
    return sorted(made, key=lambda it: it.created_at)


def stored(store: Path) -> set[str]:
    return {path.parent.name for path in store.glob("*/*/*/manifest.json")}


@pytest.mark.long
async def test_physical_copy_with_the_same_store_leaves_the_backups_of_the_original(
    temporal: Client, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the snapshot of a machine is started as a test system, with the settings as they were."""
    monkeypatch.setattr(scheduled_requests, "_POLL_SECONDS", 0.05)
    async with original_server() as (server, folder):
        async with serving(server, store, temporal) as (tenant, operator):
            job = await operator.create("Grand Bend")
            assert await operator.ended(job) is JobStatus.COMPLETED
            for days_ago in (11, 10, 9):
                await backed_up(tenant, operator, job.database, days_ago)
            await cleaned(tenant)
            own = await own_backups(tenant)
        newest = str(own[-1].stored_id)
        async with copied(server, folder) as copy:
            async with serving(copy, store, temporal) as (test_system, operator):
                assert (await cleaned(test_system)).left is None  # it is sooner than the original
            async with serving(server, store, temporal) as (tenant, operator):
                assert "accept-store" in str((await cleaned(tenant)).left)
            async with serving(copy, store, temporal) as (test_system, operator):
                for days_ago in (2, 1):
                    await backed_up(test_system, operator, job.database, days_ago)
                assert "accept-store" in str((await cleaned(test_system)).left)
                assert newest in stored(store)
                known = {it.id for it in own}
                foreign = [str(it.location) for it in await own_backups(test_system) if it.id not in known]
                await test_system.instances.installation.renew()
        async with serving(server, store, temporal) as (tenant, operator):
            await cleaned(tenant)
            assert [it.id for it in await own_backups(tenant)] == [it.id for it in own]
            assert newest in stored(store)
            # As docs/operations/staging-copy.md says.
            for location in foreign:
                shutil.rmtree(location.removeprefix("file://"))
            await accept_store(await open_store(tenant.settings), BackupStores(tenant.engine), tenant.name)
            report = await cleaned(tenant)
            assert (report.left, report.recorded) == (None, 0)
            assert newest in stored(store)


@pytest.mark.long
async def test_copy_is_noticed_when_it_has_made_a_backup_and_was_stopped_before_its_first_pass(
    temporal: Client, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled_requests, "_POLL_SECONDS", 0.05)
    async with original_server() as (server, folder):
        async with serving(server, store, temporal) as (tenant, operator):
            job = await operator.create("Grand Bend")
            assert await operator.ended(job) is JobStatus.COMPLETED
            await backed_up(tenant, operator, job.database, 9)
            await cleaned(tenant)
            own = [it.id for it in await own_backups(tenant)]
        async with copied(server, folder) as copy, serving(copy, store, temporal) as served:
            await backed_up(*served, job.database, 1)
        before = stored(store)
        async with serving(server, store, temporal) as (tenant, operator):
            for _ in range(2):
                assert "accept-store" in str((await cleaned(tenant)).left)
            assert [it.id for it in await own_backups(tenant)] == own
        assert stored(store) == before
