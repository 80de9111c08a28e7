"""The sweep and the reconcile pass, carried out by workers on real servers."""

import uuid

import asyncpg
import pytest
from temporalio.client import Client

from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.instances.attributes import AttributeChanges
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import reconcile
from tests.servers import session, template_missing
from workflows.passes import PendingSweep, RecordSizes

pytestmark = pytest.mark.usefixtures("workers")


async def _sweep(client: Client, settings: Settings) -> int:
    return await client.execute_workflow(
        PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=settings.registry_queue
    )


async def test_every_waiting_row_is_completed_when_the_sweep_comes_by(
    operator: Operator, temporal: Client, settings: Settings, name: str
) -> None:
    jobs = [(await operator.instances.reserve(f"{name} {n}", Template.MINIMAL)).job for n in range(5)]
    assert await _sweep(temporal, settings) == 5
    assert [await operator.ended(job) for job in jobs] == [JobStatus.COMPLETED] * 5
    assert await _sweep(temporal, settings) == 0


async def test_database_stays_when_the_sweep_finds_that_another_product_deletes_a_protected_instance(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    await operator.instances.change_attributes(job.instance_id, AttributeChanges(protected=True))
    async with session(registry_dsn) as other:
        await other.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    assert await _sweep(temporal, settings) == 1

    async def is_refused() -> bool:
        return (await operator.queries.instance(job.instance_id)).status == InstanceStatus.COMPLETED

    await wait_until(is_refused, 20)
    assert "protected" in ((await operator.queries.instance(job.instance_id)).error_message or "")
    assert await operator.queries.ods_instance(job.ods_instance_id) is not None
    assert await admin.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", job.database)
    assert await _sweep(temporal, settings) == 0
    renamed = await operator.rename(job, f"{name} B")
    assert await operator.ended(renamed) is JobStatus.COMPLETED


async def test_failed_job_goes_on_when_the_sweep_finds_its_retry(
    operator: Operator, temporal: Client, settings: Settings, admin: asyncpg.Connection, name: str
) -> None:
    async with template_missing(admin):
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.ERROR
    await operator.instances.request_retry(job.instance_id)  # but the workflow, which waits, was not told
    assert await _sweep(temporal, settings) == 1
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED


async def test_job_is_restarted_when_its_workflow_is_not_open(
    operator: Operator, temporal: Client, settings: Settings, name: str
) -> None:
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await operator.jobs.begin(job)
    assert "1 jobs restarted" in await reconcile(temporal, settings)
    assert await operator.ended(job) is JobStatus.COMPLETED


async def test_leftover_is_removed_and_drift_told_when_the_pass_comes_by(
    operator: Operator, temporal: Client, settings: Settings, admin: asyncpg.Connection, name: str
) -> None:
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await operator.jobs.begin(job)
    staging, orphan = owner_of(job).staging_name, f"EdFi_Ods_Orphan_{job.ods_instance_id}"
    await admin.execute(f"CREATE DATABASE {staging} OWNER {seeding.SERVICE_ROLE}")
    await admin.execute(f'CREATE DATABASE "{orphan}"')
    await operator.jobs.fail(job, "The server was away.")
    try:
        outcome = await reconcile(temporal, settings)
        assert "1 leftovers removed" in outcome
        assert not outcome.endswith(" 0 contradictions.")
        assert not await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", staging)
        assert await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", orphan)
        assert (await operator.instance(job)).status == InstanceStatus.ERROR
    finally:
        await admin.execute(f'DROP DATABASE "{orphan}"')


async def test_the_size_of_what_carries_its_mark_is_recorded_when_the_pass_comes_by(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    own, foreign, failed = [await operator.create(f"{name} {letter}") for letter in "ABC"]
    assert await operator.ended(own) is await operator.ended(foreign) is JobStatus.COMPLETED
    await operator.ended(failed)
    await admin.execute(f'COMMENT ON DATABASE "{foreign.database}" IS NULL')
    await admin.execute(f'DROP DATABASE "{failed.database}"')
    told = await temporal.execute_workflow(
        RecordSizes.run, id=f"sizes-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
    assert told == "1 sizes recorded."
    (size,) = await tenant.sizes.of_instance(own.instance_id)
    assert size.bytes == await admin.fetchval("SELECT pg_database_size($1)", own.database)
    assert await tenant.sizes.of_instance(foreign.instance_id) == []
    assert await tenant.sizes.of_all() == [size]
