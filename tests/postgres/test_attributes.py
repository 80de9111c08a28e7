"""Attributes of instances in the registry, when requests and jobs of this service and of others meet."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded.polling import wait_until
from ods.model.operations import Template
from ods.registry.installation import InstallationStore
from ods.registry.instances.adoptions import AdoptionStore, DatabaseName, ToldInstance
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore, Requested
from ods.registry.storage.errors import InvalidError, RefusedError
from ods.registry.storage.models import DbInstance
from tests.postgres.instance_states import CONNECTION_STRING, POLICY, bring_to
from tests.servers import session

PROTECTED = AttributeChanges(protected=True)
CONTEXTS = AttributeChanges(contexts={"year": "2027", "district": "255901"})
BLOCKED = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""

Request = Callable[[InstanceStore, int], Awaitable[object]]


async def protect(instances: InstanceStore, instance_id: int) -> DbInstance:
    return await instances.change_attributes(instance_id, PROTECTED)


async def delete(instances: InstanceStore, instance_id: int) -> Requested:
    return await instances.request_delete(instance_id)


async def delete_elsewhere(rows: asyncpg.Connection, instance_id: int) -> None:
    """As an Admin API requests it, past this service."""
    await rows.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE id = $1", instance_id)


async def waiting(job_store: JobStore) -> InstanceJob:
    await job_store.follow_admin_api()
    (job,) = await job_store.waiting_jobs(0, 9)
    return job


@asynccontextmanager
async def locked_row(registry_dsn: str, instance_id: int) -> AsyncIterator[None]:
    """Another session has locked the instance's row while the block runs."""
    async with session(registry_dsn) as connection, connection.transaction():
        await connection.execute("SELECT FROM adminapi.dbinstances WHERE id = $1 FOR UPDATE", instance_id)
        yield


async def are_blocked(rows: asyncpg.Connection, count: int) -> bool:
    return int(await rows.fetchval(BLOCKED)) >= count


# Protection


@pytest.mark.parametrize(
    "requests", [(protect, delete), (delete, protect)], ids=["protect first", "delete first"]
)
async def test_second_request_is_refused_when_delete_and_protection_wait_for_one_row(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    registry_dsn: str,
    requests: tuple[Request, Request],
) -> None:
    """They wait in this order, so that they are done in it."""
    job = await bring_to(instances, job_store, "Completed", "Both")
    async with asyncio.TaskGroup() as group, locked_row(registry_dsn, job.instance_id):
        tasks = []
        for request in requests:
            tasks.append(group.create_task(outcome(request(instances, job.instance_id))))
            await wait_until(partial(are_blocked, rows, len(tasks)), 10)
    assert [task.result() for task in tasks] == [None, RefusedError]
    instance = await queries.instance(job.instance_id)
    expected = (True, "Completed") if requests[0] is protect else (False, "Pending_Delete")
    assert (instance.is_protected, instance.status) == expected


async def outcome(request: Awaitable[object]) -> type[Exception] | None:
    """None if the request was granted, or the type of the error that it raised."""
    try:
        await request
    except (RefusedError, InvalidError) as error:
        return type(error)
    return None


async def test_delete_of_another_product_is_refused_with_the_reason_when_the_instance_is_protected(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Protected")
    await protect(instances, job.instance_id)
    for _ in range(2):  # the other product may ask again
        await delete_elsewhere(rows, job.instance_id)
        due = await waiting(job_store)
        assert due.rules.to_trash
        for _ in range(2):  # the step may be repeated
            assert not (await job_store.begin(due)).held
        instance = await queries.instance(job.instance_id)
        assert instance.status == "Completed"
        assert instance.error_message is not None
        assert "protected" in instance.error_message
        assert f"`ods instance unprotect {job.instance_id}`" in instance.error_message
        assert await queries.ods_instance(job.ods_instance_id) is not None
        assert await job_store.waiting_jobs(0, 9) == []

    await instances.change_attributes(job.instance_id, AttributeChanges(protected=False))
    await delete_elsewhere(rows, job.instance_id)
    due = await waiting(job_store)
    begun = await job_store.begin(due)
    assert (begun.held, begun.refusal) == (True, None)
    assert await job_store.finish_delete(due)


async def test_reason_is_in_the_job_when_the_delete_of_a_protected_instance_is_refused(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", "Protected")
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    assert not (await job_store.begin(job)).held
    ended = await queries.job(job.job_id)
    assert ended is not None
    assert (ended.status, ended.finished_at is not None) == ("Error", True)
    assert "protected" in (ended.error_message or "")


async def test_instance_that_was_not_created_stays_when_another_product_deletes_it_and_it_is_protected(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Error", "Protected")
    await protect(instances, job.instance_id)
    await delete_elsewhere(rows, job.instance_id)
    assert not (await job_store.begin(await waiting(job_store))).held
    instance = await queries.instance(job.instance_id)
    assert instance.status == "Delete_Failed"
    assert "protected" in (instance.error_message or "")


async def test_delete_fails_with_the_reason_when_the_operator_retries_that_of_a_protected_instance(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    """The signal `retry` reaches the workflow past the API."""
    failed = await bring_to(instances, job_store, "Delete_Failed", "Protected")
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    (job,) = await job_store.ended_jobs([failed.mark])
    begun = await job_store.begin(replace(job, attempt=job.attempt + 1))
    assert begun.held
    assert "protected" in (begun.refusal or "")


async def test_lost_instance_is_protected_when_new_ones_are(
    engine: AsyncEngine, queries: InstanceQueries
) -> None:
    protecting = AdoptionStore(engine, JobFactory(InstallationStore(engine), POLICY), protect_new=True)
    mark, request = str(uuid.uuid4()), str(uuid.uuid4())
    lost = ToldInstance("Lost", Template.MINIMAL, 900_001, mark, 1, None, request, request)
    restored = await protecting.follow(lost, DatabaseName("EdFi_Ods_Lost_Minimal", CONNECTION_STRING))
    assert (await queries.instance(restored.id)).is_protected


# Contexts


async def test_contexts_are_published_when_a_failed_create_has_made_its_database(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries
) -> None:
    job = (await instances.reserve("Followed", Template.MINIMAL, CONTEXTS)).job
    await job_store.begin(job)
    await job_store.fail(job, "It could not be created.")
    for _ in range(2):  # the step may be repeated
        assert await job_store.follow_database(job, CONNECTION_STRING, None)
        published = await queries.contexts_of(job.ods_instance_id)
        assert {row.key: row.value for row in published} == CONTEXTS.contexts
    assert (await queries.instance(job.instance_id)).reserved_contexts is None


@pytest.mark.parametrize("is_first", [True, False], ids=["change first", "end of the create first"])
async def test_ods_instance_has_the_changed_contexts_when_the_change_meets_the_end_of_the_create(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    registry_dsn: str,
    *,
    is_first: bool,
) -> None:
    job = (await instances.reserve("Met", Template.MINIMAL, CONTEXTS)).job
    await job_store.begin(job)
    wanted = {"year": "2028"}
    requests = [
        instances.change_attributes(job.instance_id, AttributeChanges(contexts=wanted)),
        job_store.finish_create(job, CONNECTION_STRING),
    ]
    async with asyncio.TaskGroup() as group, locked_row(registry_dsn, job.instance_id):
        tasks = []
        for request in requests if is_first else reversed(requests):
            tasks.append(group.create_task(outcome(request)))
            await wait_until(partial(are_blocked, rows, len(tasks)), 10)
    assert [task.result() for task in tasks] == [None, None]
    instance = await queries.instance(job.instance_id)
    assert (instance.status, instance.reserved_contexts) == ("Completed", None)
    assert {row.key: row.value for row in await queries.contexts_of(job.ods_instance_id)} == wanted


async def test_nothing_is_published_when_the_end_of_the_create_is_refused(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, rows: asyncpg.Connection
) -> None:
    job = (await instances.reserve("Refused", Template.MINIMAL, CONTEXTS)).job
    await job_store.begin(job)
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ('Refused')")
    with pytest.raises(Exception, match="already exists"):
        await job_store.finish_create(job, CONNECTION_STRING)
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 0
    assert (await queries.instance(job.instance_id)).reserved_contexts == CONTEXTS.contexts


async def test_contexts_that_another_product_adds_meanwhile_are_refused_as_a_fault_of_the_request(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    """It has added the same key, and not committed it yet: only PostgreSQL can tell."""
    job = await bring_to(instances, job_store, "Completed", "Other product")
    add = (
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'year', '1999')"
    )
    async with asyncio.TaskGroup() as group, session(registry_dsn) as other, other.transaction():
        await other.execute(add, job.ods_instance_id)
        changed = instances.change_attributes(job.instance_id, CONTEXTS)
        task = group.create_task(outcome(changed))
        await wait_until(partial(are_blocked, rows, 1), 10)
    assert task.result() is InvalidError
