"""The steps of a delete that write its status also ask the server, which may say nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from unittest.mock import AsyncMock

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.endings import JobEnd, Outcome
from activities.errors import OUTAGE
from activities.job_fence import ConcurrencyLimit
from activities.statuses import StatusActivities
from ods.databases import adoption
from ods.databases.lookup import find_own
from ods.databases.server import Server
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, Template
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob, JobFailure
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to, marked_by


@pytest.fixture
async def silent_server() -> AsyncIterator[Server]:
    """A host that accepts connections and says nothing."""
    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = Server(f"postgresql://anyone@127.0.0.1:{port}/postgres")
    yield server
    await server.close()
    for writer in held:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    listener.close()


async def test_outage_is_told_soon_and_the_delete_waits_when_the_server_says_nothing(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, silent_server: Server, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id)).job
    activities = StatusActivities(replace(tenant, jobs=job_store, server=silent_server))
    async with asyncio.timeout(5):
        with pytest.raises(ApplicationError) as raised:
            await ActivityEnvironment().run(activities.begin, job)
    assert (raised.value.type, raised.value.non_retryable) == (OUTAGE, False)
    assert await job_store.is_due(job)


@pytest.mark.parametrize("is_retried", [False, True])
async def test_late_session_is_ended_before_a_failed_delete_is_told_unless_the_job_was_retried_since(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, name: str, *, is_retried: bool
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Delete", name)
    if is_retried:
        await job_store.fail(job, "It could not be deleted.")
        await job_store.begin((await instances.request_retry(job.instance_id)).job)
    statuses = StatusActivities(replace(tenant, jobs=job_store))
    async with tenant.server.locked(job.mark) as held:
        backend = held.get_server_pid()
        recorded = await ActivityEnvironment().run(statuses.fail, JobFailure(job, "It was cancelled."))
        async with tenant.server.session() as other:
            query = "SELECT 1 FROM pg_stat_activity WHERE pid = $1"
            is_at_work = await other.fetchval(query, backend) is not None
    assert (recorded, is_at_work) == (not is_retried, is_retried)
    assert await job_store.holds(job, InstanceStatus.DELETE_FAILED) is not is_retried


async def test_rename_is_recorded_in_time_when_the_server_says_nothing(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, silent_server: Server, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Rename", name)
    statuses = StatusActivities(replace(tenant, jobs=job_store, server=silent_server))
    async with asyncio.timeout(job.policy.heartbeat_timeout):
        assert await ActivityEnvironment().run(statuses.finish, JobEnd(job, Outcome()))
    assert await job_store.holds(job, InstanceStatus.COMPLETED)


async def test_time_of_a_left_name_does_not_begin_when_the_next_rename_is_under_way(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that was suspended after it had recorded a rename, and goes on now."""
    earlier = await bring_to(instances, job_store, "InProgress", name)
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    await ActivityEnvironment().run(activities.provision, earlier)
    renamings = []
    for new in ("once", "twice"):
        renamings.append((await instances.request_rename(earlier.instance_id, f"{name} {new}")).job)
        assert (await job_store.begin(renamings[-1])).held
        await ActivityEnvironment().run(activities.rename, renamings[-1])
        if new == "once":
            assert await job_store.finish_rename(renamings[-1], "any")
    statuses = StatusActivities(replace(tenant, jobs=job_store))
    with monkeypatch.context() as suspended:
        suspended.setattr(job_store, "finish_rename", AsyncMock(return_value=True))
        await ActivityEnvironment().run(statuses.finish, JobEnd(renamings[0], Outcome()))
    assert await _since(tenant, renamings[1]) == [None, None]
    assert await ActivityEnvironment().run(statuses.finish, JobEnd(renamings[1], Outcome()))
    assert None not in await _since(tenant, renamings[1])


async def _since(tenant: Tenant, job: InstanceJob) -> list[datetime | None]:
    async with tenant.server.session() as session:
        (row,) = await find_own(session, owner_of(job))
    marked = row.marked
    assert marked is not None
    return [one.since for one in marked.left]


async def test_failed_delete_is_told_in_time_when_the_server_says_nothing(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, silent_server: Server, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Delete", name)
    statuses = StatusActivities(replace(tenant, jobs=job_store, server=silent_server))
    async with asyncio.timeout(job.policy.heartbeat_timeout):
        assert await ActivityEnvironment().run(statuses.fail, JobFailure(job, "It was cancelled."))
    assert await job_store.holds(job, InstanceStatus.DELETE_FAILED)


@pytest.mark.parametrize("is_marked", [False, True])
async def test_detach_ends_when_it_was_interrupted_after_the_mark_was_removed(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    admin: asyncpg.Connection,
    name: str,
    *,
    is_marked: bool,
) -> None:
    statuses = StatusActivities(replace(tenant, jobs=job_store))
    databases = DatabaseActivities(tenant, ConcurrencyLimit(1))
    job = (await instances.reserve(name, Template.MINIMAL)).job
    await ActivityEnvironment().run(statuses.begin, job)
    await ActivityEnvironment().run(databases.provision, job)
    detach = (await instances.request_delete(job.instance_id, Delete(Way.LEAVE))).job
    begun = await ActivityEnvironment().run(statuses.begin, detach)
    assert (begun.held, begun.refusal) == (True, None)
    async with tenant.server.fenced(owner_of(detach)) as fenced:
        await adoption.let_go(
            tenant.server,
            fenced,
            owner_of(detach).knowing(await job_store.known_revisions(detach)),
            detach.databases,
            published=True,
        )
    await job_store.fail(detach, "The registry was away.")
    if is_marked:  # another database is the instance's: this one is none that was let go
        await admin.execute(f'CREATE DATABASE "{job.database}_moved"')
        comment = marked_by(job).comment
        await admin.execute(f"COMMENT ON DATABASE \"{job.database}_moved\" IS '{comment}'")

    retry = (await instances.request_retry(job.instance_id)).job
    begun = await ActivityEnvironment().run(statuses.begin, retry)
    assert (begun.held, begun.refusal is not None) == (True, is_marked)
    if is_marked:
        await admin.execute(f'DROP DATABASE "{job.database}_moved"')
    else:
        assert (await ActivityEnvironment().run(databases.detach, retry)).is_recorded
        row = await queries.any_instance(job.instance_id)
        assert row is not None
        assert row.status == "Deleted"
        left = await admin.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", job.database)
        assert left is True
    await admin.execute(f'DROP DATABASE "{job.database}"')
