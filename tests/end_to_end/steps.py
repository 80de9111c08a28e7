"""Steps that tests of several files take."""

import uuid

import asyncpg
from temporalio.client import Client

from registry.instances.jobs import InstanceJob
from registry.instances.status import JobStatus
from settings import Settings
from tests.end_to_end.conftest import Operator
from workflows.reconcile import Reconcile

_MARKED = (
    "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 ORDER BY datname"
)


async def created(operator: Operator, name: str) -> InstanceJob:
    """Create an instance of that name; returns the job, which is done."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    return job


async def names(admin: asyncpg.Connection, mark: str) -> list[str]:
    """The databases that carry the mark of an instance, in order."""
    return [row["datname"] for row in await admin.fetch(_MARKED, f"%{mark}%")]


async def reconcile(client: Client, settings: Settings) -> str:
    """Let a pass go by; returns what it reports."""
    return await client.execute_workflow(
        Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=settings.registry_queue
    )
