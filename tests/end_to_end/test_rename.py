"""Renames on real servers: what is renamed, and what stays when it cannot be."""

import asyncpg
import pytest

from embedded.postgres import EmbeddedPostgres
from registry.instances.status import InstanceStatus, JobStatus
from tests.end_to_end.conftest import Operator
from tests.servers import service_dsn, session

pytestmark = pytest.mark.usefixtures("workers")


async def _names(admin: asyncpg.Connection, mark: str) -> list[str]:
    rows = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1", f"%{mark}%"
    )
    return [row["datname"] for row in rows]


async def test_instance_goes_on_under_its_old_name_until_retried_when_the_new_database_name_is_taken(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    before = await operator.queries.ods_instance(created.ods_instance_id)
    foreign = f"EdFi_Ods_{name} new_Minimal".replace(" ", "_")
    async with session(service_dsn(postgres, "postgres")) as owner:
        await owner.execute(f'CREATE DATABASE "{foreign}"')

    job = await operator.rename(created, f"{name} new")
    assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    assert (instance.status, instance.name) == (InstanceStatus.ERROR, name)
    assert f"A database named '{foreign}' exists" in (instance.error_message or "")
    assert await _names(admin, job.mark) == [created.database]
    after = await operator.queries.ods_instance(created.ods_instance_id)
    assert before is not None
    assert after is not None
    assert (after.name, after.connection_string) == (before.name, before.connection_string)
    async with session(postgres.dsn(created.database)) as user:
        assert await user.fetchval("SELECT count(*) FROM pg_class") > 0

    await admin.execute(f'DROP DATABASE "{foreign}"')
    await operator.temporal("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert (await operator.instance(job)).name == f"{name} new"
    assert await _names(admin, job.mark) == [foreign]


async def test_database_is_in_the_trash_when_a_failed_rename_is_followed_by_a_delete(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    async with session(postgres.dsn(created.database)):  # a superuser's: it cannot be ended
        job = await operator.rename(created, f"{name} new")
        assert await operator.ended(job) is JobStatus.ERROR
        assert "superusers" in ((await operator.instance(job)).error_message or "")
    deletion = await operator.delete(job)  # handed over to the workflow that waits
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await _names(admin, job.mark) == [deletion.trash_database]
    assert await operator.queries.ods_instance(job.ods_instance_id) is None
