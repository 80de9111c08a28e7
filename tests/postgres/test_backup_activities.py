"""Backups ask the registry, while they hold the fence, whether they are still wanted."""

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.backups import BackupActivities
from ods.backups.backing_up import program_label
from ods.databases.constants import program_name
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.job_store import JobStore
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
