"""PostgreSQL and Temporal go away in the middle of a job, and come back: the job goes on by itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.instances.jobs import ExecutionPolicy
from ods.registry.instances.queries import InstanceQueries
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from ods.temporal.client import DATA_CONVERTER
from ods.temporal.job_starter import JobStarter
from ods.temporal.namespace import register_search_attributes
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import OwnTemporal, WorkerProcess, passes_are_over
from tests.postgres.instance_states import stores
from tests.servers import MINIMAL_TEMPLATE, make_settings, session


@pytest.fixture
def settings(other_postgres: EmbeddedPostgres, other_registry_dsn: str) -> Settings:
    """Registry and ODS databases are on the server that is taken away."""
    return make_settings(other_postgres, other_registry_dsn, ddl_attempts=8)


@pytest.fixture
async def own_temporal(outage: OwnTemporal) -> Client:
    client = await Client.connect(outage.address, data_converter=DATA_CONVERTER)
    await register_search_attributes(client)
    return client


@pytest.fixture
async def operator(settings: Settings, own_temporal: Client) -> AsyncIterator[Operator]:
    engine = create_registry_engine(settings.admin_dsn.get_secret_value())
    instances, jobs = stores(engine, ExecutionPolicy.from_settings(settings))
    yield Operator(
        instances,
        jobs,
        InstanceQueries(engine),
        JobStarter(own_temporal, settings.registry_queue),
        own_temporal,
    )
    await engine.dispose()


async def _template_is_in_use(server: EmbeddedPostgres) -> None:
    """From now on a clone waits: for as long as the server's session on the template lasts."""
    async with session(server.dsn()) as admin:
        await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true')


async def test_instance_is_completed_when_postgresql_was_away_in_the_middle_of_its_clone(
    operator: Operator,
    worker_process: WorkerProcess,
    other_postgres: EmbeddedPostgres,
    settings: Settings,
    name: str,
) -> None:
    await worker_process.start(settings)
    await _template_is_in_use(other_postgres)
    async with session(other_postgres.dsn(MINIMAL_TEMPLATE)):
        job = await operator.create(name)
        await operator.reached(job, {JobStatus.IN_PROGRESS})
        await other_postgres.stop()
    await other_postgres.start()
    assert await operator.ended(job) is JobStatus.COMPLETED


async def test_status_is_written_when_postgresql_was_away_at_that_moment(
    operator: Operator,
    worker_process: WorkerProcess,
    other_postgres: EmbeddedPostgres,
    settings: Settings,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await other_postgres.stop()
    await operator.starter.start(job)
    await _has_failed_once(operator.client, job.workflow_id)
    await other_postgres.start()
    assert await operator.ended(job) is JobStatus.COMPLETED
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED


async def test_instance_is_completed_when_temporal_was_away_in_the_middle_of_its_clone(
    operator: Operator,
    worker_process: WorkerProcess,
    other_postgres: EmbeddedPostgres,
    outage: OwnTemporal,
    settings: Settings,
    name: str,
) -> None:
    await worker_process.start(settings)
    await _template_is_in_use(other_postgres)
    async with session(other_postgres.dsn(MINIMAL_TEMPLATE)):
        job = await operator.create(name)
        await operator.reached(job, {JobStatus.IN_PROGRESS})
        await outage.kill()
    await outage.start()
    assert await operator.ended(job) is JobStatus.COMPLETED


async def test_worker_begins_to_work_when_temporal_comes_after_it(
    operator: Operator, worker_process: WorkerProcess, outage: OwnTemporal, settings: Settings, name: str
) -> None:
    await outage.kill()
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    await worker_process.start(settings)
    await outage.start()
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED


async def _has_failed_once(client: Client, workflow_id: str) -> None:
    async with asyncio.timeout(30):
        while True:
            described = (await client.get_workflow_handle(workflow_id).describe()).raw_description
            if any(pending.HasField("last_failure") for pending in described.pending_activities):
                return
            await asyncio.sleep(0.05)
