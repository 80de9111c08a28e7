"""Steps that tests of several files take."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import httpx
import pytest
from temporalio import activity
from temporalio.client import Client

from ods.databases import dropping
from ods.databases.dropping import drop_found
from ods.databases.lookup import FoundDatabase
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import Drift, DriftKind
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import AnySettings, Settings
from ods.tenants.tenant import Tenant
from tests.api import server
from tests.api.server import Server
from tests.end_to_end.conftest import Operator
from tests.servers import delete_schedules, environment, service_dsn, session
from worker import run
from workflows.passes import PendingSweep, Reconcile

_MARKED = (
    "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 ORDER BY datname"
)
COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
"""The comment of a database."""
HALF_DROP = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
"""What a DROP of a database has done that was interrupted."""
NO_RIGHT = {
    "kind": "SCHEMA",
    "schema": "public",
    "name": "",
    "part": "",
    "role": "",
    "privileges": ["INSERT"],
    "grantable": False,
}
"""A right of a manifest that PostgreSQL refuses to give."""


async def created(operator: Operator, name: str) -> InstanceJob:
    """Create an instance of that name; returns the job, which is done."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    return job


async def names(admin: asyncpg.Connection, mark: str) -> list[str]:
    """The databases that carry the mark of an instance, in order."""
    return [row["datname"] for row in await admin.fetch(_MARKED, f"%{mark}%")]


async def comment(admin: asyncpg.Connection, database: str, text: str) -> None:
    """Write the comment of a database."""
    statement = "SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)"
    await admin.execute(await admin.fetchval(statement, database, text))


async def rewrite_manifest(rows: asyncpg.Connection, manifest: Path, text: str) -> None:
    """Put a text in the place of a stored manifest, as if it had been written so."""
    manifest.write_text(text)  # noqa: ASYNC240 - a small file
    await rows.execute(
        "UPDATE adminapi.backups SET manifestsha256 = $1 WHERE storedid = $2",
        *(sha256(text.encode()).hexdigest(), uuid.UUID(manifest.parent.name)),
    )


async def reconcile(client: Client, settings: Settings) -> str:
    """Let a pass go by; returns what it reports."""
    return await client.execute_workflow(
        Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=settings.registry_queue
    )


async def sweep(client: Client, settings: Settings) -> None:
    """Let a sweep go by, which starts what waits."""
    await client.execute_workflow(
        PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=settings.registry_queue
    )


async def write(postgres: EmbeddedPostgres, job: InstanceJob, text: str) -> None:
    """Leave a row in the instance's database by which its data are told from those of another."""
    async with session(service_dsn(postgres, job.database)) as tenant:
        await tenant.execute("CREATE TABLE IF NOT EXISTS treasure (words text)")
        await tenant.execute("INSERT INTO treasure VALUES ($1)", text)


async def read(postgres: EmbeddedPostgres, job: InstanceJob) -> list[str]:
    """What was written into the instance's database, as it is now."""
    async with session(service_dsn(postgres, job.database)) as tenant:
        if await tenant.fetchval("SELECT to_regclass('treasure')") is None:
            return []
        return [row["words"] for row in await tenant.fetch("SELECT words FROM treasure ORDER BY 1")]


async def reset(operator: Operator, job: InstanceJob, template: str | None = None) -> InstanceJob:
    requested = await operator.instances.request_reset(job.instance_id, template, "a client")
    await operator.starter.start(requested.job)
    return requested.job


async def undo(operator: Operator, job: InstanceJob, database: str | None = None) -> InstanceJob:
    requested = await operator.instances.request_undo_reset(job.instance_id, database=database)
    await operator.starter.start(requested.job)
    return requested.job


async def drifts_of(tenant: Tenant, *words: str) -> dict[DriftKind, Drift]:
    """What is found about databases or instances of which it names one; other tests leave theirs."""
    found = await DriftDetector(tenant).detect()
    return {drift.kind: drift for drift in found if any(word in str(drift) for word in words)}


async def purge_cancelled_after_drop(
    api: httpx.AsyncClient,
    job: InstanceJob,
    interrupting: asyncpg.Connection | None = None,
    *,
    live: bool = False,
    temporal: Client | None = None,
) -> str:
    """Purge the instance, and cancel that when its database is dropped, which is not recorded; the job's id.

    Workers must run in this process.

    Args:
        api: the client.
        job: a job of the instance.
        interrupting: a superuser's session by which the DROP is interrupted; None: it is done.
        live: whether the instance is live, not in the trash.
        temporal: where it is cancelled past the API; None: by the API.
    """
    dropped = asyncio.Event()

    async def drop(session: asyncpg.Connection, found: FoundDatabase, *which: Any) -> None:
        if interrupting is None:
            await drop_found(session, found, *which)
        else:
            await interrupting.execute(HALF_DROP, found.name)
        dropped.set()
        while (details := activity.cancellation_details()) is None or not details.cancel_requested:
            await asyncio.sleep(0.01)
        if interrupting is not None:
            raise asyncio.CancelledError

    address = f"/v2/dbInstances/{job.instance_id}?purge=true" if live else f"/v2/trash/{job.instance_id}"
    with patch.object(dropping, "drop_found", drop):
        purge: str = (await api.delete(address)).json()["jobId"]
        async with asyncio.timeout(30):
            await dropped.wait()
            if temporal is None:
                assert (await api.post(f"/v2/jobs/{purge}/cancel")).status_code == 202
            else:
                await temporal.get_workflow_handle(job.workflow_id).cancel()
            while (await api.get(f"/v2/jobs/{purge}")).json()["status"] in {"Pending", "InProgress"}:
                await asyncio.sleep(0.03)
    return purge


@asynccontextmanager
async def working(settings: AnySettings, options: Sequence[str], temporal: Client) -> AsyncIterator[Server]:
    """The service in a process of its own, with further `options` of uvicorn, and a worker in this one."""
    address, stop = temporal.service_client.config.target_host, asyncio.Event()
    variables = environment(settings) | {"TEMPORAL_ADDRESS": address}
    unset: dict[str, str | None] = dict.fromkeys(
        ("ODS_ADMIN_DSN", "ODS_MASTER_DSN", "ODS_INSTANCE_CONNECTION_STRING")
    )
    first = next(iter(settings.tenants.values()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TEMPORAL_ADDRESS", address)
        work = asyncio.create_task(run(settings, stop))
        try:
            async with server.serving(first, *options, **(unset | variables)) as service:
                yield service
        finally:
            stop.set()
            await work
            for tenant in settings.tenants:
                await delete_schedules(temporal, tenant)
