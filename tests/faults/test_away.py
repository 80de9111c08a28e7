"""A server that is away for longer than a job has attempts costs no job: it is waited for."""

import asyncio

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, passes_are_over
from tests.servers import make_settings, service_dsn, session

QUEUED = 12
RECOVERY_SECONDS = 30
"""Within which everything is done after the server's return."""


class TestOdsServer:
    """The server of the ODS databases is away; the registry is on another."""

    @pytest.fixture
    def settings(
        self, postgres: EmbeddedPostgres, registry_dsn: str, other_postgres: EmbeddedPostgres
    ) -> Settings:
        return make_settings(
            postgres, registry_dsn, master_dsn=service_dsn(other_postgres, "postgres"), ddl_attempts=2
        )

    async def test_all_creates_are_completed_when_the_server_comes_back(
        self,
        operator: Operator,
        worker_process: WorkerProcess,
        other_postgres: EmbeddedPostgres,
        settings: Settings,
        name: str,
    ) -> None:
        await worker_process.start(settings)
        await passes_are_over(operator.client)
        await other_postgres.stop()
        jobs = [await operator.create(f"{name} {number}") for number in range(QUEUED)]
        await _all_are_told_to_wait(operator, jobs)
        await other_postgres.start()
        await _all_complete(operator, jobs)

    async def test_delete_is_finished_by_the_pass_when_an_outage_has_ended_it(
        self,
        operator: Operator,
        worker_process: WorkerProcess,
        other_postgres: EmbeddedPostgres,
        settings: Settings,
        name: str,
    ) -> None:
        await worker_process.start(settings)
        await passes_are_over(operator.client)
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.COMPLETED
        deletion = (await operator.instances.request_delete(job.instance_id)).job
        await operator.jobs.begin(deletion)
        assert await operator.jobs.fail(deletion, "The server was away for an hour.", outage=True)
        await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
        assert await operator.reached(deletion, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
        async with session(other_postgres.dsn()) as admin:
            assert not await admin.fetchval(
                "SELECT count(*) FROM pg_database WHERE datname = $1", job.database
            )

    async def test_routing_stays_until_it_is_known_that_the_database_may_be_dropped(
        self,
        operator: Operator,
        worker_process: WorkerProcess,
        other_postgres: EmbeddedPostgres,
        settings: Settings,
        name: str,
    ) -> None:
        await worker_process.start(settings)
        await passes_are_over(operator.client)
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.COMPLETED
        await other_postgres.stop()
        deletion = (await operator.instances.request_delete(job.instance_id)).job
        await operator.starter.start(deletion)
        async with asyncio.timeout(30):
            while not await _failures(operator, deletion):
                await asyncio.sleep(0.05)
        assert await operator.queries.ods_instance(job.ods_instance_id) is not None
        await other_postgres.start()
        assert await operator.ended(deletion) is JobStatus.COMPLETED
        assert await operator.queries.ods_instance(job.ods_instance_id) is None


class TestRegistry:
    """The registry is away; the ODS databases are on another server."""

    @pytest.fixture
    def registry_dsn(self, other_registry_dsn: str) -> str:
        return other_registry_dsn

    @pytest.fixture
    def settings(self, postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
        return make_settings(postgres, registry_dsn, ddl_attempts=2)

    async def test_all_creates_are_completed_when_the_registry_comes_back(
        self,
        operator: Operator,
        worker_process: WorkerProcess,
        other_postgres: EmbeddedPostgres,
        settings: Settings,
        name: str,
    ) -> None:
        await worker_process.start(settings)
        await passes_are_over(operator.client)
        jobs = [
            (await operator.instances.reserve(f"{name} {number}", Template.MINIMAL)).job
            for number in range(QUEUED)
        ]
        started = [asyncio.create_task(operator.starter.start(job)) for job in jobs]
        await other_postgres.stop()
        await asyncio.gather(*started)
        await asyncio.sleep(0)
        await _tries_have_failed(operator, jobs)
        await other_postgres.start()
        await _all_complete(operator, jobs)


async def test_others_go_on_and_the_blocking_session_is_named_when_a_transaction_holds_locks(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    await worker_process.start(settings)
    jobs = [await operator.create(f"{name} {number}") for number in range(4)]
    assert {await operator.ended(job) for job in jobs} == {JobStatus.COMPLETED}
    async with session(postgres.dsn()) as blocking:
        holder = await blocking.fetchval("SELECT pg_backend_pid()")
        transaction = blocking.transaction()
        await transaction.start()
        for job in jobs:
            await blocking.execute(f'ALTER DATABASE "{job.database}" CONNECTION LIMIT 7')
        deletions = [await operator.delete(job) for job in jobs]
        await _all_are_told_to_wait(operator, deletions)
        for deletion in deletions:
            row = await operator.queries.job(deletion.job_id)
            assert row is not None
            assert f"pg_terminate_backend({holder})" in str(row.waiting_for)
        created = await operator.create(f"{name} other")
        assert await operator.ended(created) is JobStatus.COMPLETED
        await transaction.rollback()
    for deletion in deletions:
        assert await operator.ended(deletion) is JobStatus.COMPLETED


async def test_interrupted_drop_is_finished_when_its_delete_has_failed(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    deletion = (await operator.instances.request_delete(job.instance_id)).job
    await operator.jobs.begin(deletion)
    await operator.jobs.fail(deletion, "gave up")
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", job.database)
    await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
    assert await operator.reached(deletion, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.DELETED
    assert not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", job.database)


async def _all_are_told_to_wait(operator: Operator, jobs: list[InstanceJob]) -> None:
    """Wait until clients are told of each job that it waits: it has failed more than once by then."""
    identifiers = [job.job_id for job in jobs]
    async with asyncio.timeout(60):
        while len(await operator.queries.waiting_jobs(identifiers)) < len(jobs):
            await asyncio.sleep(0.05)


async def _tries_have_failed(operator: Operator, jobs: list[InstanceJob]) -> None:
    """Wait until some job has met the outage more often than it has attempts."""
    async with asyncio.timeout(60):
        while not any([await _failures(operator, job) > job.policy.ddl_attempts for job in jobs]):
            await asyncio.sleep(0.1)


async def _failures(operator: Operator, job: InstanceJob) -> int:
    """How often an activity of the job has failed so far."""
    handle = operator.client.get_workflow_handle(job.workflow_id)
    described = (await handle.describe()).raw_description
    history = await handle.fetch_history()
    failed = sum(event.HasField("activity_task_failed_event_attributes") for event in history.events)
    return failed + sum(max(pending.attempt - 1, 0) for pending in described.pending_activities)


async def _all_complete(operator: Operator, jobs: list[InstanceJob]) -> None:
    """All jobs end, and well, soon after the server's return."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        ended = await asyncio.gather(*(operator.ended(job) for job in jobs))
    assert ended == [JobStatus.COMPLETED] * len(jobs)
