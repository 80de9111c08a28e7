"""Brings instances into any state, by the registry's own steps."""

import uuid
from datetime import timedelta

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.databases.ownership import KnownOwner
from ods.model.operations import Template
from ods.model.revisions import KnownRevisions
from ods.registry.installation import InstallationStore
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.naming import trash_name
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import DEFAULT_TENANT
from ods.tenants.job_owners import owner_of

POLICY = ExecutionPolicy("ods-ddl", 2, 2, 60, 60, "ods-backup")
CONNECTION_STRING = "iv|ciphertext|hmac"
STATES = [
    *("Pending", "InProgress", "Completed", "Error"),
    *("Pending_Delete", "InProgress_Delete", "Deleted", "Delete_Failed"),
    *("Pending_Rename", "InProgress_Rename", "Completed_Rename", "Error_Rename"),
]


def marked_by(job: InstanceJob) -> KnownOwner:
    """Whom the comment of the database names that the job has published."""
    return owner_of(job).knowing(KnownRevisions(), job.request, job.attempt)


def status_in(state: str) -> str:
    """The status of an instance in `state`, which tells the operation as well where that leaves a doubt."""
    return "InProgress" if state == "InProgress_Delete" else state.removesuffix("_Rename")


def stores(
    engine: AsyncEngine,
    policy: ExecutionPolicy = POLICY,
    tenant: str = DEFAULT_TENANT,
    trash: timedelta = timedelta(),
    *,
    final_backup: bool = False,
) -> tuple[InstanceStore, JobStore]:
    """Requests and jobs of another registry than the test's own, or of another tenant."""
    factory = JobFactory(InstallationStore(engine), policy, tenant)
    return (
        InstanceStore(engine, factory, trash, final_backup=final_backup),
        JobStore(engine, factory, trash, final_backup=final_backup),
    )


async def let_time_pass(rows: asyncpg.Connection, minutes: int = 10) -> None:
    """Names that renames or deletes have left were left so many minutes earlier; by default, all are free."""
    await rows.execute(
        "UPDATE adminapi.leftdatabasenames SET leftat = leftat - make_interval(mins => $1)", minutes
    )
    await rows.execute(
        "UPDATE adminapi.databases SET trashedat = trashedat - make_interval(mins => $1)", minutes
    )


async def add_version(rows: asyncpg.Connection, instance_id: int, due_in: timedelta = timedelta()) -> str:
    """Record a database that the instance had before a reset; returns its name in the trash."""
    database_id = uuid.uuid4()
    await rows.execute(
        "INSERT INTO adminapi.databases"
        " (instanceid, databasetemplate, databaseid, publishedat, reason, trashedat, jobnumber, purgeafter)"
        " VALUES ($1, 'Minimal', $2, now(), 'replaced', timezone('utc', now()), 2,"
        " timezone('utc', now()) + $3)",
        *(instance_id, database_id, due_in),
    )
    return trash_name(str(database_id))


async def bring_to(instances: InstanceStore, job_store: JobStore, state: str, name: str) -> InstanceJob:
    """A new instance in `state`; returns the job that brought it there."""
    created = await instances.reserve(name, Template.MINIMAL)
    if state == "Pending":
        return created.job
    await job_store.begin(created.job)
    if state == "Error":
        await job_store.fail(created.job, "It could not be created.")
    elif state != "InProgress":
        await job_store.finish_create(created.job, CONNECTION_STRING)
        if state.endswith("_Rename"):
            return await _bring_to_rename(instances, job_store, state, created.job)
        if state != "Completed":
            return await _bring_to_deletion(instances, job_store, state, created.job.instance_id)
    return created.job


async def _bring_to_deletion(
    instances: InstanceStore, job_store: JobStore, state: str, instance_id: int
) -> InstanceJob:
    job = (await instances.request_delete(instance_id)).job
    if state == "Pending_Delete":
        return job
    await job_store.begin(job)
    if state == "Deleted":
        await job_store.finish_delete(job)
    elif state == "Delete_Failed":
        await job_store.fail(job, "It could not be deleted.")
    return job


async def _bring_to_rename(
    instances: InstanceStore, job_store: JobStore, state: str, created: InstanceJob
) -> InstanceJob:
    job = (await instances.request_rename(created.instance_id, f"{created.name} new")).job
    if state == "Pending_Rename":
        return job
    await job_store.begin(job)
    if state == "Completed_Rename":
        await job_store.finish_rename(job, CONNECTION_STRING)
    elif state == "Error_Rename":
        await job_store.fail(job, "It could not be renamed.")
        await job_store.end_undo(job)
    return job


async def let_requests_pass(rows: asyncpg.Connection, instance_id: int, number: int) -> None:
    """Let the databases of the instance have had so many states before those that the registry knows."""
    await rows.execute(
        "INSERT INTO adminapi.databaserevisions (id, instanceid, databaseid, role, state)"
        " SELECT gen_random_uuid(), $1, gen_random_uuid(), 'current', 'void' FROM generate_series(1, $2)",
        *(instance_id, number),
    )
