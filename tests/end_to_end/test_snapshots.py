"""Snapshots for readers, on real servers: through the API, by workers, and by the reconcile pass."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from embedded.postgres import EmbeddedPostgres
from registry.instances.jobs import InstanceJob
from registry.instances.status import InstanceStatus, JobStatus, Operation
from settings import Settings
from tenants.tenant import Tenant
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.servers import INSTANCE_PASSWORD, service_dsn, session
from workflows.reconcile import Reconcile

pytestmark = pytest.mark.usefixtures("workers", "ods_api")


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


async def created(operator: Operator, name: str, postgres: EmbeddedPostgres) -> InstanceJob:
    """An instance with a table of its own."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT n FROM generate_series(1, 42) AS n")
    return job


async def snapshotted(operator: Operator, job: InstanceJob) -> InstanceJob:
    requested = await operator.instances.request_snapshot(job.instance_id, "a client")
    await operator.starter.start(requested.job)
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    return requested.job


async def derivative(operator: Operator, tenant: Tenant, job: InstanceJob) -> str | None:
    """The database that the ODS/API would read as the snapshot of the instance."""
    for row in await operator.queries.derivatives_of(job.ods_instance_id):
        if row.derivative_type == "Snapshot":
            return tenant.connection_strings.decrypted(row.connection_string).database
    return None


async def reconcile(client: Client, settings: Settings) -> str:
    return await client.execute_workflow(
        Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=settings.registry_queue
    )


async def test_readers_get_a_copy_that_cannot_be_written_when_a_snapshot_is_requested(
    operator: Operator,
    tenant: Tenant,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name, postgres)
    path = f"/v2/odsInstances/{job.ods_instance_id}/snapshots"
    answer = await api.post(path)
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["jobId"] == f"SnapshotInstanceJob-{job.ods_instance_id}-2"
    assert re.fullmatch(rf"{job.database}_Snapshot_\d{{8}}T\d{{6}}", accepted["databaseName"])
    async with asyncio.timeout(30):
        while (await api.get(f"/v2/jobs/{accepted['jobId']}")).json()["status"] != "Completed":
            await asyncio.sleep(0.02)

    (listed,) = (await api.get(path)).json()
    assert (listed["id"], listed["status"], listed["current"]) == (accepted["snapshotId"], "Completed", True)
    database = await derivative(operator, tenant, job)
    assert database == listed["databaseName"] == accepted["databaseName"]
    reader = f"postgresql://ods_api:{INSTANCE_PASSWORD}@127.0.0.1:{postgres.port}/{database}"
    async with session(reader) as reading:
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reading.execute("DELETE FROM treasure")
        await reading.execute("SET default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reading.execute("DELETE FROM treasure")
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("DELETE FROM treasure")
    async with session(reader) as reading:
        assert await reading.fetchval("SELECT count(*) FROM treasure") == 42
    instance = await operator.instance(job)
    assert (instance.status, instance.operation) == (InstanceStatus.COMPLETED, Operation.SNAPSHOT)
    assert await tenant.drift.detect() == []
