import base64
import re

import asyncpg
import pytest
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.connection_strings.connection_string import ConnectionString
from ods.registry.storage.errors import RefusedError
from tests.end_to_end.conftest import Operator
from tests.ods_api import decrypt
from tests.servers import (
    ENCRYPTION_KEY,
    INSTANCE_PASSWORD,
    MINIMAL_TEMPLATE,
    SERVICE_PASSWORD,
    TOKEN_KEY,
    in_use,
    session,
)

pytestmark = pytest.mark.usefixtures("workers")


async def _tables(dsn: str) -> list[str]:
    async with session(dsn) as connection:
        rows = await connection.fetch(
            "SELECT format('%s.%s', schemaname, tablename) FROM pg_tables ORDER BY 1"
        )
        return [row[0] for row in rows]


async def test_instance_is_there_when_its_create_has_ended(
    operator: Operator, temporal: Client, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED

    await temporal.get_workflow_handle(str(job.ods_instance_id)).result()
    described = await operator.temporal("workflow", "describe", "--workflow-id", str(job.ods_instance_id))
    assert "CreateInstance" in described
    assert "COMPLETED" in described.upper()

    instance = await operator.instance(job)
    assert (instance.status, instance.ods_instance_name) == (InstanceStatus.COMPLETED, name)
    ods_instance = await operator.queries.ods_instance(job.ods_instance_id)
    assert ods_instance is not None
    assert (ods_instance.name, ods_instance.instance_type) == (name, Template.MINIMAL)
    connection_string = ConnectionString.parse(
        decrypt(ods_instance.connection_string or "", base64.b64decode(ENCRYPTION_KEY))
    )
    assert dict(connection_string.pairs)["database"] == job.database
    assert dict(connection_string.pairs)["password"] == INSTANCE_PASSWORD

    comment = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", job.database
    )
    assert job.mark in comment
    await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true')
    expected = await _tables(postgres.dsn(MINIMAL_TEMPLATE))
    await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false')
    assert await _tables(postgres.dsn(job.database)) == expected
    assert any(table.startswith("edfi.") for table in expected)


async def test_instance_is_gone_when_its_delete_has_ended(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    deleted = await operator.delete(created)
    assert await operator.ended(deleted) is JobStatus.COMPLETED
    assert (await operator.instance(created)).status == InstanceStatus.DELETED
    assert await operator.queries.ods_instance(created.ods_instance_id) is None
    assert not await admin.fetch("SELECT 1 FROM pg_database WHERE datname = $1", created.database)


async def test_name_is_free_again_when_its_instance_was_deleted(operator: Operator, name: str) -> None:
    first = await operator.create(name)
    await operator.ended(first)
    await operator.ended(await operator.delete(first))
    second = await operator.create(name)
    assert await operator.ended(second) is JobStatus.COMPLETED
    assert second.ods_instance_id != first.ods_instance_id


async def test_second_job_is_refused_when_one_is_running(
    operator: Operator, temporal: Client, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await operator.reached(job, {JobStatus.IN_PROGRESS})
        with pytest.raises(RefusedError) as refused:
            await operator.instances.request_delete(job.instance_id)
        assert refused.value.status == InstanceStatus.IN_PROGRESS
        with pytest.raises(AssertionError, match="already"):
            await operator.temporal(
                *("workflow", "start", "--type", "DeleteInstance", "--task-queue", "any"),
                *("--workflow-id", str(job.ods_instance_id), "--fail-existing"),
            )
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert "is done" in await temporal.get_workflow_handle(job.workflow_id).result()


async def test_no_secret_is_in_any_history_when_jobs_have_run(
    operator: Operator, temporal: Client, admin: asyncpg.Connection, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    await operator.ended(await operator.delete(job))
    failed = await operator.create(f"{name} b")
    await operator.ended(failed)
    runs = [
        execution
        async for execution in temporal.list_workflows(
            f"WorkflowId IN ('{job.workflow_id}', '{failed.workflow_id}')"
        )
    ]
    assert len(runs) == 3
    for run in runs:
        history = (await temporal.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()).to_json()
        # Payloads are base64 within the JSON; so would a secret in one be.
        for secret in (SERVICE_PASSWORD, INSTANCE_PASSWORD, ENCRYPTION_KEY, TOKEN_KEY):
            assert secret not in history
            assert secret not in _payloads(history)


def _payloads(history: str) -> str:
    found = re.findall(r'"data":\s*"([A-Za-z0-9+/=]+)"', history)
    assert found
    return "\n".join(base64.b64decode(data).decode(errors="replace") for data in found)
