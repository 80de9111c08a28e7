"""Jobs carried out by real workers on real servers, watched and steered as an operator would."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.backup_cleaning import BackupCleaning, CleaningReport
from ods.model.operations import JobStatus, Template
from ods.recovery.compare.findings import Drift
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import DbInstance
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import Tenant
from tests.api.service import bearer, client_of, running
from tests.servers import binary, session


@dataclass(frozen=True)
class Operator:
    """Requests jobs and waits for them."""

    instances: InstanceStore
    jobs: JobStore
    queries: InstanceQueries
    starter: JobStarter
    client: Client

    async def create(self, name: str, template: str = Template.MINIMAL) -> InstanceJob:
        """Request an instance."""
        requested = await self.instances.reserve(name, template)
        await self.starter.start(requested.job)
        return requested.job

    async def rename(self, job: InstanceJob, name: str) -> InstanceJob:
        """Request that the instance of `job` gets another name."""
        requested = await self.instances.request_rename(job.instance_id, name)
        await self.starter.start(requested.job)
        return requested.job

    async def delete(self, job: InstanceJob) -> InstanceJob:
        """Request that the instance of `job` is deleted."""
        requested = await self.instances.request_delete(job.instance_id)
        await self.starter.start(requested.job)
        return requested.job

    async def retry(self, job: InstanceJob) -> InstanceJob:
        """Request that the failed job of the instance of `job` is tried again."""
        requested = await self.instances.request_retry(job.instance_id)
        await self.starter.start(requested.job)
        return requested.job

    async def ended(self, job: InstanceJob) -> JobStatus:
        """Wait until `job` is `Completed` or `Error`.

        A suspended worker holds its polls of Temporal open for a minute, and is given tasks meanwhile.
        """
        return await self.reached(job, {JobStatus.COMPLETED, JobStatus.ERROR}, seconds=90, interval=0.03)

    async def reached(
        self, job: InstanceJob, statuses: set[JobStatus], seconds: float = 30, interval: float = 0.01
    ) -> JobStatus:
        """Wait until `job` has one of `statuses`, which may be over soon; each look takes milliseconds."""
        async with asyncio.timeout(seconds):
            while True:
                row = await self.queries.job(job.job_id)
                assert row is not None
                if row.status in statuses:
                    return JobStatus(row.status)
                await asyncio.sleep(interval)

    async def instance(self, job: InstanceJob) -> DbInstance:
        """The instance of `job` as it is now, be it deleted."""
        (row,) = await self.queries.instances(offset=0, limit=1, instance_id=job.instance_id)
        return row

    async def temporal(self, *arguments: str) -> str:
        """Run the `temporal` command line.

        Raises:
            AssertionError: it failed; the message is what it printed.
        """
        process = await asyncio.create_subprocess_exec(
            binary("temporal"),
            *arguments,
            "--address",
            self.client.service_client.config.target_host,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()


@pytest.fixture
def operator(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    starter: JobStarter,
    temporal: Client,
) -> Operator:
    return Operator(instances, job_store, queries, starter, temporal)


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def api(settings: Settings, temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    address = temporal.service_client.config.target_host
    async with (
        running(settings, address) as app,
        client_of(app, headers=bearer(settings)) as client,
    ):
        yield client


async def cleaned(tenant: Tenant, *found: Drift) -> CleaningReport:
    """What the reconcile pass does about backups, with what it has found."""

    async def start(backup_id: uuid.UUID) -> None:
        del backup_id

    async def detect() -> list[Drift]:
        return list(found)

    return await ActivityEnvironment().run(BackupCleaning(tenant, start, detect).clean_backups)
