"""Backups ask the registry, while they hold the fence, whether they are still wanted."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import AsyncMock
from uuid import UUID

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import backups, following, job_fence
from activities.backup_verification import VerificationActivities
from activities.backups import BackupActivities
from activities.following import Following
from activities.job_fence import ConcurrencyLimit, JobFence
from ods.backups.backing_up import program_label
from ods.backups.errors import BackupFaultError
from ods.backups.monitoring import Monitor, Progress
from ods.databases.constants import program_name
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob, JobWait
from ods.registry.instances.store import InstanceStore
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to
from tests.postgres.postgres_inspection import FENCE_AWAITED, until
from tests.servers import service_dsn


async def test_late_attempt_ends_no_programs_of_the_next_one(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    tmp_path: Path,
    name: str,
) -> None:
    settings = tenant.settings.model_copy(update={"backup_url": tmp_path.as_uri()})
    with_store = replace(tenant, settings=settings)
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_backup(created.instance_id, "requested")).job
    assert (await job_store.begin(job)).held
    program = await asyncpg.connect(
        service_dsn(postgres, "postgres"),
        server_settings={"application_name": program_name("pg_dump", program_label(UUID(job.mark)))},
    )
    async with server.fenced(owner_of(job)):  # as the next attempt
        late = asyncio.create_task(ActivityEnvironment().run(BackupActivities(with_store).back_up, job))
        await until(lambda: admin.fetchval(FENCE_AWAITED))
        await job_store.fail(job, "The job was cancelled.")
    with pytest.raises(ApplicationError) as refusal:
        await late
    assert refusal.value.type == "Superseded"
    assert await program.fetchval("SELECT 1") == 1
    await program.close()


@pytest.fixture
def registry_away_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try to record that a job waits for nothing fails."""
    end_wait, faults = JobStore.end_wait, [OSError("registry away")]

    async def flaky(jobs: JobStore, job: InstanceJob) -> None:
        if faults:
            raise faults.pop()
        await end_wait(jobs, job)

    monkeypatch.setattr(JobStore, "end_wait", flaky)
    monkeypatch.setattr(following, "_AGAIN_SECONDS", 0)


async def _waits(tenant: Tenant, job: InstanceJob) -> bool:
    row = await tenant.queries.job(job.job_id)
    return row is not None and row.waiting is not None


async def _works(tenant: Tenant, job: InstanceJob, first_piece: Any) -> NoReturn:
    """Work that goes on until the job waits for nothing, though it is not at one percent by then."""
    assert await _waits(tenant, job), "nothing was stored or read yet"
    first_piece(Progress(1, 0))
    async with asyncio.timeout(5):
        while await _waits(tenant, job):
            await asyncio.sleep(0.01)
    raise BackupFaultError("The job waits for nothing.")


@pytest.mark.usefixtures("registry_away_once")
async def test_backup_waits_for_nothing_when_it_has_begun_to_store(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = tenant.settings.model_copy(update={"backup_url": tmp_path.as_uri()})
    created = await bring_to(tenant.instances, tenant.jobs, "Completed", name)
    job = (await tenant.instances.request_backup(created.instance_id, "requested")).job
    assert (await tenant.jobs.begin(job)).held
    await tenant.jobs.record_wait(JobWait(job, "The server is away.", 60, 60))

    async def stores(_: object, __: object, ___: object, monitor: Monitor, ____: object) -> None:
        await _works(tenant, job, monitor.report)

    monkeypatch.setattr(backups, "back_up", stores)
    monkeypatch.setattr(backups, "backup_request", AsyncMock())
    monkeypatch.setattr(BackupActivities, "_database_of", AsyncMock())
    with pytest.raises(ApplicationError, match="waits for nothing"):
        await ActivityEnvironment().run(BackupActivities(replace(tenant, settings=settings)).back_up, job)


@pytest.mark.usefixtures("registry_away_once")
async def test_purge_waits_for_nothing_when_its_backup_is_being_verified(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = tenant.settings.model_copy(update={"backup_url": tmp_path.as_uri()})
    trashed = await bring_to(tenant.instances, tenant.jobs, "Deleted", name)
    job = (await tenant.instances.request_purge(trashed.instance_id, final_backup=True)).job
    assert (await tenant.jobs.begin(job)).held
    await tenant.jobs.record_wait(JobWait(job, "The store is away.", 60, 60))

    async def reads(_: object, __: object, step: Following, ___: object) -> None:
        await _works(tenant, job, step.report)

    monkeypatch.setattr(VerificationActivities, "_examine", reads)
    monkeypatch.setattr("activities.backup_verification.known_store", AsyncMock())
    verifying = VerificationActivities(replace(tenant, settings=settings)).verify_final_backup
    with pytest.raises(ApplicationError, match="waits for nothing"):
        await ActivityEnvironment().run(verifying, job)


@pytest.mark.usefixtures("registry_away_once")
async def test_end_of_a_wait_is_recorded_when_the_registry_was_away_at_first(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(job_fence, "_WAIT_OVER_SECONDS", 0)
    job = await bring_to(tenant.instances, tenant.jobs, "InProgress", name)
    await tenant.jobs.record_wait(JobWait(job, "The server is away.", 60, 60))

    async def step() -> None:
        async with JobFence(tenant, ConcurrencyLimit(1)).under_way(job), asyncio.timeout(5):
            while await _waits(tenant, job):
                await asyncio.sleep(0.01)

    await ActivityEnvironment().run(step)
