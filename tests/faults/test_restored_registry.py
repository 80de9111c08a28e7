"""A registry that was put back to an earlier state costs no database, and crosses no instances."""

import asyncio

import asyncpg

from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, passes_are_over
from tests.put_back_rows import put_rows_back, remember_rows
from tests.servers import session, template_missing


async def failed(operator: Operator, admin: asyncpg.Connection, name: str) -> InstanceJob:
    """The create of an instance that has failed; its workflow waits for a decision."""
    async with template_missing(admin):
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.ERROR
    return job


async def test_live_database_stays_when_its_row_is_put_back_to_before_the_retry(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    job = await failed(operator, admin, name)
    async with session(registry_dsn) as rows:
        await remember_rows(rows)
        retry = await operator.retry(job)
        assert await operator.reached(retry, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
        await rows.execute("DELETE FROM dbo.odsinstances")
        await put_rows_back(rows)
    assert (await operator.instance(job)).status == InstanceStatus.ERROR
    before = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database)

    await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
    async with asyncio.timeout(30):
        while (await operator.instance(job)).status != InstanceStatus.COMPLETED:
            await asyncio.sleep(0.05)
    assert await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database) == before
    assert await operator.queries.ods_instance(job.ods_instance_id) is not None


async def test_job_is_done_when_its_row_is_put_back_to_before_the_failure_that_its_workflow_waits_after(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    async with template_missing(admin), session(registry_dsn) as rows:
        job = (await operator.instances.reserve(name, Template.MINIMAL)).job
        await remember_rows(rows)
        await JobStarter(operator.client, settings.registry_queue).start(job)
        assert await operator.ended(job) is JobStatus.ERROR
        await put_rows_back(rows)
    assert (await operator.instance(job)).status == InstanceStatus.PENDING

    await operator.temporal("schedule", "trigger", "--schedule-id", "pending-sweep")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.COMPLETED


async def test_job_is_done_when_its_row_is_put_back_to_the_work_whose_failure_its_workflow_waits_after(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    job = await failed(operator, admin, name)
    async with session(registry_dsn) as rows:
        await rows.execute(
            "UPDATE adminapi.dbinstances SET state = 'InProgress';"
            " UPDATE adminapi.jobstatuses SET status = 'InProgress', errormessage = NULL"
        )

    await operator.temporal("schedule", "trigger", "--schedule-id", "reconcile")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    instance = await operator.instance(job)
    assert (instance.status, instance.attempt) == (InstanceStatus.COMPLETED, 2)


async def test_instances_are_not_crossed_when_ids_are_given_out_again(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    registry_dsn: str,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    await worker_process.start(settings)
    await passes_are_over(operator.client)
    first = await failed(operator, admin, f"{name} A")  # its workflow stays open
    async with session(registry_dsn) as rows:
        await rows.execute(
            "DELETE FROM adminapi.dbinstances; DELETE FROM adminapi.jobstatuses;"  # noqa: S608 - a number
            f" ALTER SEQUENCE adminapi.dbinstances_id_seq RESTART WITH {first.ods_instance_id};"
            f" ALTER SEQUENCE dbo.odsinstances_odsinstanceid_seq RESTART WITH {first.ods_instance_id}"
        )
    second = (await operator.instances.reserve(f"{name} B", Template.MINIMAL)).job
    assert (second.workflow_id, second.job_id) == (first.workflow_id, first.job_id)
    await JobStarter(operator.client, settings.registry_queue).start(second)

    assert await operator.reached(second, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    instance = await operator.instance(second)
    assert (instance.name, instance.database_name) == (f"{name} B", second.database)
    comment = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", second.database
    )
    assert second.mark in comment
    assert not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", first.database)
