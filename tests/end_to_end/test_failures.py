"""A job that cannot be done says why, touches nothing of others, and is done when the cause is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.recovery import Recovery
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.servers import MINIMAL_TEMPLATE, in_use, right_missing, session, template_missing

pytestmark = pytest.mark.usefixtures("workers")


async def _failed(operator: Operator, job: InstanceJob, words: str) -> None:
    assert await operator.ended(job) is JobStatus.ERROR
    row = await operator.queries.job(job.job_id)
    instance = await operator.instance(job)
    assert row is not None
    assert instance.status == InstanceStatus.ERROR
    for told in (row.error_message, instance.error_message):
        assert words in (told or "")


async def _retried_by_signal(operator: Operator, job: InstanceJob) -> None:
    await operator.temporal("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    instance = await operator.instance(job)
    assert (instance.status, instance.error_message) == (InstanceStatus.COMPLETED, None)


async def _fingerprint(postgres: EmbeddedPostgres, admin: asyncpg.Connection, database: str) -> list[object]:
    row = await admin.fetchrow("SELECT * FROM pg_database WHERE datname = $1", database)
    async with session(postgres.dsn(database)) as connection:
        content = await connection.fetch("SELECT * FROM keepsake ORDER BY 1")
    return [row, content]


async def test_foreign_database_is_untouched_when_it_has_the_wanted_name(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    database = f"EdFi_Ods_{name.replace(' ', '_')}_Minimal"
    # It belongs to the product's own role, so that no missing right protects it.
    await admin.execute(f'CREATE DATABASE "{database}" OWNER {seeding.SERVICE_ROLE}')
    async with session(postgres.dsn(database)) as connection:
        await connection.execute("CREATE TABLE keepsake AS SELECT generate_series(1, 100) AS id")
    before = await _fingerprint(postgres, admin, database)

    job = await operator.create(name)
    await _failed(
        operator, job, f"A database named '{database}' exists that does not belong to this instance."
    )
    assert await _fingerprint(postgres, admin, database) == before

    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await _fingerprint(postgres, admin, database) == before

    again = await operator.create(name)
    await _failed(operator, again, "does not belong to this instance")
    await admin.execute(f'DROP DATABASE "{database}"')
    await _retried_by_signal(operator, again)


async def test_job_is_done_after_retry_when_the_template_was_missing(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    async with template_missing(admin):
        job = await operator.create(name)
        await _failed(operator, job, f"The template database '{MINIMAL_TEMPLATE}' does not exist.")
    await _retried_by_signal(operator, job)


async def test_job_is_done_after_retry_when_a_right_was_missing(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    async with right_missing(admin):
        job = await operator.create(name)
        await _failed(operator, job, "Grant it CREATEDB")
    await _retried_by_signal(operator, job)


@pytest.mark.long  # PostgreSQL waits for other sessions for five seconds, twice
async def test_job_is_done_after_retry_when_the_template_was_in_use(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await _failed(operator, job, f"The template '{MINIMAL_TEMPLATE}' is in use by other sessions.")
        assert await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", MINIMAL_TEMPLATE
        ), "the other session must not be ended"
    await _retried_by_signal(operator, job)


async def test_job_is_done_when_retried_through_the_registry(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    async with right_missing(admin):
        job = await operator.create(name)
        await _failed(operator, job, "Grant it CREATEDB")
    again = await operator.retry(job)
    assert again.job_id == job.job_id
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED


async def test_published_database_stays_for_a_retry_when_its_name_was_taken_among_ods_instances_meanwhile(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, registry_dsn: str, name: str
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await operator.reached(job, {JobStatus.IN_PROGRESS})
        async with session(registry_dsn) as connection:
            await connection.execute(
                "INSERT INTO dbo.odsinstances (name, instancetype) VALUES ($1, 'Other')", name
            )
    await _failed(operator, job, f"An instance named '{name}' already exists.")

    async def is_compensated() -> bool:
        return "is there and was left" in ((await operator.instance(job)).error_message or "")

    await wait_until(is_compensated, 30)  # which would complete the instance if its name were free already
    published = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database)
    assert published
    async with session(registry_dsn) as connection:
        await connection.execute("DELETE FROM dbo.odsinstances WHERE name = $1", name)
    retry = await operator.retry(job)
    assert await operator.reached(retry, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", job.database) == published


@pytest.mark.parametrize("before", [InstanceStatus.COMPLETED, InstanceStatus.DELETE_FAILED])
async def test_instance_is_deleted_when_fifty_sessions_keep_reconnecting(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    before: InstanceStatus,
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    if before is InstanceStatus.DELETE_FAILED:
        await _delete_failed(operator, postgres, job)
    await admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    reader = f"postgresql://reader:reader@127.0.0.1:{postgres.port}/{job.database}"
    try:
        async with _reconnecting(reader, 50):
            deletion = await operator.delete(job)
            assert await operator.ended(deletion) is JobStatus.COMPLETED
    finally:
        await admin.execute("DROP ROLE reader")
    assert (await operator.instance(job)).status == InstanceStatus.DELETED
    await _gone(admin, job.database)


async def test_delete_is_done_after_retry_when_a_session_could_not_be_ended(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    deletion = await _delete_failed(operator, postgres, job)
    await _retried_until_deleted(operator, deletion)
    await _gone(admin, job.database)


async def test_delete_fails_and_the_database_stays_when_it_lost_its_mark(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    await admin.execute(f'COMMENT ON DATABASE "{job.database}" IS NULL')
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.ERROR
    told = (await operator.instance(job)).error_message or ""
    assert "does not belong to this instance by its comment" in told
    assert f"`ods instance adopt {job.ods_instance_id} --database {job.database}`" in told
    assert await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", job.database)
    assert await operator.queries.ods_instance(job.ods_instance_id), "its users shall go on to use it"


async def test_database_without_its_mark_is_handed_over_as_told_when_another_instance_has_the_number(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str
) -> None:
    """Where ODS instances were there before, OdsInstanceIds are not the ids of instances."""
    first = await operator.create(f"{name} first")
    await rows.execute(
        "SELECT setval(pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid'), $1)",
        first.instance_id + 1,
    )
    theirs = [await operator.create(f"{name} {letter}") for letter in "abcd"]
    job = next(one for one in theirs if one.ods_instance_id in {other.instance_id for other in theirs})
    for one in theirs:
        assert await operator.ended(one) is JobStatus.COMPLETED
    await admin.execute(f'COMMENT ON DATABASE "{job.database}" IS NULL')
    renaming = await operator.rename(job, f"{name} renamed")
    assert await operator.ended(renaming) is JobStatus.ERROR
    told = (await operator.instance(job)).error_message or ""
    assert f"`ods instance adopt {job.ods_instance_id} --database {job.database}`" in told
    candidate = await DatabaseAdoption(tenant).adopt(job.ods_instance_id, job.database)
    assert candidate.adopted
    assert candidate.id == job.instance_id


async def test_ods_instance_of_another_product_stays_when_an_instance_that_wants_its_id_is_recovered(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str
) -> None:
    job = (await operator.instances.reserve(name, Template.MINIMAL)).job
    its = (job.ods_instance_id, f"{name} of others", "theirs")
    await rows.execute("INSERT INTO dbo.odsinstances VALUES ($1, $2, 'Minimal', $3)", *its)
    await operator.starter.start(job)
    await _failed(operator, job, "Another ODS instance has the id")
    by_hand = job.database.replace("_Minimal", "_by_hand_Minimal")
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{by_hand}"')
    outcome = await Recovery(tenant).apply([by_hand])
    (refused,) = outcome.refused
    assert (refused.step.database, outcome.done) == (by_hand, [])
    assert "Another ODS instance has the id" in refused.reason
    query = "SELECT odsinstanceid, name, connectionstring FROM dbo.odsinstances WHERE odsinstanceid = $1"
    assert [tuple(row) for row in await rows.fetch(query, job.ods_instance_id)] == [its]


async def _delete_failed(operator: Operator, postgres: EmbeddedPostgres, job: InstanceJob) -> InstanceJob:
    async with session(postgres.dsn(job.database)):  # a superuser's, which the product may not end
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.ERROR
    instance = await operator.instance(job)
    assert instance.status == InstanceStatus.DELETE_FAILED
    assert "superusers" in (instance.error_message or "")
    return deletion


async def _retried_until_deleted(operator: Operator, job: InstanceJob) -> None:
    await operator.temporal("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert (await operator.instance(job)).status == InstanceStatus.DELETED


async def _gone(admin: asyncpg.Connection, database: str) -> None:
    async with asyncio.timeout(10):
        while await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _reconnecting(dsn: str, sessions: int) -> AsyncIterator[None]:
    async def reconnect() -> None:
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(dsn)
                try:
                    await connection.execute("SELECT pg_sleep(60)")
                finally:
                    connection.terminate()
            await asyncio.sleep(0.01)

    clients = [asyncio.create_task(reconnect()) for _ in range(sessions)]
    await asyncio.sleep(0.3)
    yield
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
