"""Jobs that a client cancels, carried out by real workers: each ends, and no database is lost or left."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import psutil
import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.registry.education_organizations.refreshes import RefreshPolicy, Scope
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.temporal.job_canceller import CancelOutcome, JobCanceller
from ods.temporal.refresh_starter import RefreshStarter
from ods.tenants.tenant import Tenant
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import reconcile, reset
from tests.ods import add_ods_instance, connection_string, ods_database
from tests.postgres.postgres_inspection import databases_of, holding_comment
from tests.servers import MINIMAL_TEMPLATE, in_use, service_dsn, session
from worker import WORKERS

CANCELLED = "The job was cancelled."
BEFORE = "The job was cancelled before it began."


@pytest.fixture
async def api(settings: Settings, temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that reaches Temporal."""
    address = temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


async def cancel(api: httpx.AsyncClient, job_id: str) -> httpx.Response:
    return await api.post(f"/v2/jobs/{job_id}/cancel")


async def is_copied(admin: asyncpg.Connection) -> None:
    """Wait until a template is being copied, which `in_use` makes take seconds."""

    async def copies() -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE ods_staging%'"
        return bool(await admin.fetch(f"{query} AND state = 'active'"))

    await wait_until(copies, 20)


@asynccontextmanager
async def holding_limit(admin: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Write the limit of the sessions on `database` once more, until the end of the body."""
    async with admin.transaction():
        await admin.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        yield


async def is_held_up(admin: asyncpg.Connection, database: str) -> None:
    """Wait until a lock of this session holds up that the database is closed, or has held up its DROP."""

    async def held_up() -> bool:
        await admin.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees what it has seen before
        query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE ANY($1::text[]) AND state = $2)"
        closes, drops = f"%ALTER DATABASE%{database}%", f"DROP DATABASE%{database}%"
        closing = await admin.fetchval(query, [closes], "active")
        return bool(closing or await admin.fetchval(query, [drops], "idle"))

    await wait_until(held_up, 10)


async def is_closed(temporal: Client, job: InstanceJob) -> None:
    """Wait until no workflow is open under the instance's id."""

    async def closed() -> bool:
        return (await temporal.get_workflow_handle(job.workflow_id).describe()).close_time is not None

    await wait_until(closed, 20)


async def ends_as(operator: Operator, job: InstanceJob, status: InstanceStatus, reason: str) -> None:
    """Check how a cancelled job ends: the row has left `InProgress`, and both tell why."""
    assert await operator.ended(job) is JobStatus.ERROR
    row, instance = await operator.queries.job(job.job_id), await operator.instance(job)
    assert row is not None
    assert (row.error_message, instance.error_message) == (reason, reason)
    assert instance.status == status


@pytest.mark.usefixtures("workers")
async def test_database_is_removed_when_a_create_is_cancelled_in_the_middle_of_its_clone(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await is_copied(admin)
        answer = await cancel(api, job.job_id)
        assert (answer.status_code, answer.json()["jobId"]) == (202, job.job_id)
        assert answer.headers["Location"] == f"/v2/jobs/{job.job_id}"
        await ends_as(operator, job, InstanceStatus.ERROR, CANCELLED)
    await is_closed(temporal, job)
    assert await databases_of(admin, job.mark) == set()
    assert (await cancel(api, job.job_id)).status_code == 409
    retried = await api.post(f"/v2/dbInstances/{job.instance_id}/retry")
    assert retried.status_code == 202
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {job.database}


@pytest.mark.usefixtures("workers")
async def test_job_ends_once_when_many_clients_cancel_it_at_once(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await is_copied(admin)
        answers = await asyncio.gather(*(cancel(api, job.job_id) for _ in range(20)))
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert answers[0].status_code == 202
        await ends_as(operator, job, InstanceStatus.ERROR, CANCELLED)
    await is_closed(temporal, job)
    assert await databases_of(admin, job.mark) == set()


@pytest.mark.usefixtures("workers")
async def test_job_is_done_or_undone_when_it_is_cancelled_at_any_moment(
    api: httpx.AsyncClient, operator: Operator, temporal: Client, admin: asyncpg.Connection, name: str
) -> None:
    chance = random.Random(1)  # noqa: S311 - for moments that can be repeated

    async def create_and_cancel(number: int) -> tuple[int, InstanceJob]:
        job = await operator.create(f"{name} {number}")
        await asyncio.sleep(chance.uniform(0, 0.4))  # the moment is what is tested, nothing is waited for
        return (await cancel(api, job.job_id)).status_code, job

    outcomes = await asyncio.gather(*(create_and_cancel(number) for number in range(16)))
    for status, job in outcomes:
        assert status in {202, 409}
        ended = await operator.ended(job)
        await is_closed(temporal, job)
        ended = await operator.ended(job)  # a create that was published is done after all
        instance = await operator.instance(job)
        done = ended is JobStatus.COMPLETED
        assert instance.status == (InstanceStatus.COMPLETED if done else InstanceStatus.ERROR)
        assert await databases_of(admin, job.mark) == ({job.database} if done else set())
        assert bool(await operator.queries.ods_instance(job.ods_instance_id)) is done
        assert done or status == 202


@pytest.mark.usefixtures("workers")
async def test_no_database_is_lost_when_renames_and_deletes_are_cancelled_at_any_moment(
    api: httpx.AsyncClient, operator: Operator, temporal: Client, admin: asyncpg.Connection, name: str
) -> None:
    chance = random.Random(2)  # noqa: S311 - for moments that can be repeated

    async def cancelled(request: Awaitable[InstanceJob]) -> InstanceJob:
        job = await request
        await asyncio.sleep(chance.uniform(0, 0.2))  # the moment is what is tested, nothing is waited for
        assert (await cancel(api, job.job_id)).status_code in {202, 409}
        await operator.ended(job)
        await is_closed(temporal, job)
        return job

    jobs = await asyncio.gather(*(operator.create(f"{name} {number}") for number in range(12)))
    for job in jobs:
        assert await operator.ended(job) is JobStatus.COMPLETED
    for rename in await asyncio.gather(*(cancelled(operator.rename(job, f"{job.name} new")) for job in jobs)):
        instance = await operator.instance(rename)
        assert instance.status in {InstanceStatus.COMPLETED, InstanceStatus.ERROR}
        assert await databases_of(admin, rename.mark) == {instance.database_name}
        ods_instance = await operator.queries.ods_instance(rename.ods_instance_id)
        assert ods_instance is not None
        assert ods_instance.name == instance.name
    for deletion in await asyncio.gather(*(cancelled(operator.delete(job)) for job in jobs)):
        instance = await operator.instance(deletion)
        found = await databases_of(admin, deletion.mark)
        routed = await operator.queries.ods_instance(deletion.ods_instance_id) is not None
        assert (InstanceStatus(instance.status), bool(found), routed) in {
            (InstanceStatus.DELETED, True, False),
            (InstanceStatus.COMPLETED, True, True),
            (InstanceStatus.DELETE_FAILED, True, True),  # before it began, after a failed rename
            (InstanceStatus.DELETE_FAILED, True, False),
        }
        if instance.status != InstanceStatus.DELETED:
            assert await operator.ended(await operator.delete(deletion)) is JobStatus.COMPLETED
        kept = (await operator.instance(deletion)).database.trash_name
        assert await databases_of(admin, deletion.mark) == {kept}


@pytest.mark.usefixtures("workers")
async def test_delete_fails_and_can_be_repeated_when_it_is_cancelled_while_it_waits_for_a_lock(
    api: httpx.AsyncClient, operator: Operator, admin: asyncpg.Connection, temporal: Client, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    async with holding_limit(admin, job.database):
        deletion = await operator.delete(job)
        await operator.reached(deletion, {JobStatus.IN_PROGRESS})
        assert (await cancel(api, deletion.job_id)).status_code == 202
        await ends_as(operator, deletion, InstanceStatus.DELETE_FAILED, CANCELLED)
    await is_closed(temporal, job)
    assert await databases_of(admin, job.mark) == {job.database}
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {deletion.trash_database}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("state", ["live", "trash"])
@pytest.mark.parametrize(
    ("holding", "asks_anew"),
    [
        pytest.param(holding_limit, False, id="when it is closed"),
        pytest.param(holding_comment, True, id="when it is dropped"),
    ],
)
async def test_nothing_is_dropped_when_only_the_registry_knows_yet_that_the_purge_is_cancelled(
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    name: str,
    *,
    state: str,
    holding: Callable[[asyncpg.Connection, str], AbstractAsyncContextManager[None]],
    asks_anew: bool,
) -> None:
    """Temporal tells the activity within a heartbeat, in which it may get on.

    The job waits for a lock of another session meanwhile.
    """
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    kept = job.database
    if state == "trash":
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.COMPLETED
        kept = str(deletion.trash_database)
    async with holding(admin, kept):
        purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        await operator.starter.start(purge)
        await is_held_up(admin, kept)
        assert await tenant.cancellations.record(purge)
        if asks_anew:  # before each try, so that it learns of the cancel while the lock is held
            assert await operator.ended(purge) is JobStatus.ERROR
    assert await operator.ended(purge) is JobStatus.ERROR
    row = await operator.queries.job(purge.job_id)
    assert row is not None
    assert row.error_message == CANCELLED
    assert await databases_of(admin, job.mark) == {kept}
    left = await operator.queries.any_instance(job.instance_id)
    assert left is not None
    assert left.status == (InstanceStatus.DELETED if state == "trash" else InstanceStatus.DELETE_FAILED)
    # `pg_dumpall` leaves out what is closed.
    is_as_before = "SELECT datallowconn = $2 FROM pg_database WHERE datname = $1"
    await wait_until(lambda: admin.fetchval(is_as_before, kept, state == "live"), 10)


@asynccontextmanager
async def holding_drops(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold each DROP DATABASE up in its middle: it waits for a checkpoint that PostgreSQL does not make."""
    checkpointer = psutil.Process(
        await admin.fetchval("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    )
    checkpointer.suspend()
    try:
        yield
    finally:
        checkpointer.resume()


async def has_learned_of_cancel(temporal: Client, job: InstanceJob) -> None:
    """Wait until the activity that runs was told that it is cancelled."""
    workflow = temporal.get_workflow_handle(job.workflow_id)

    async def learned() -> bool:
        pending = (await workflow.describe()).raw_description.pending_activities
        state = PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
        asked = [one for one in pending if one.state == state]
        return not pending or bool(asked and asked[0].last_heartbeat_time.ToDatetime() > requested_at)

    requested_at = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=1)
    await wait_until(learned, 30)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("state", ["live", "trash"])
async def test_purge_is_done_when_it_is_cancelled_in_the_middle_of_its_drop(
    api: httpx.AsyncClient,
    operator: Operator,
    admin: asyncpg.Connection,
    temporal: Client,
    name: str,
    state: str,
) -> None:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    dropped = job.database
    if state == "trash":
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.COMPLETED
        dropped = str(deletion.trash_database)
    is_half_dropped = "SELECT datconnlimit = -2 FROM pg_database WHERE datname = $1"
    async with holding_drops(admin):
        purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        await operator.starter.start(purge)
        await wait_until(lambda: admin.fetchval(is_half_dropped, dropped), 20)
        assert (await cancel(api, purge.job_id)).status_code == 202
        await has_learned_of_cancel(temporal, purge)
        running = await operator.queries.job(purge.job_id)
        assert running is not None
        assert running.status == JobStatus.IN_PROGRESS, "it was told as cancelled"
    assert await operator.ended(purge) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == set()
    left = await operator.queries.any_instance(job.instance_id)
    assert left is not None
    assert (left.status, left.error_message) == (InstanceStatus.DELETED, None)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("has_version", [False, True])
@pytest.mark.parametrize("state", ["live", "trash"])
async def test_client_reads_of_a_half_dropped_database_when_the_workflow_is_terminated_before_the_cancel(
    api: httpx.AsyncClient,
    operator: Operator,
    admin: asyncpg.Connection,
    temporal: Client,
    settings: Settings,
    name: str,
    *,
    state: str,
    has_version: bool,
) -> None:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    dropped, kept = job.database, set[str]()
    if has_version:
        replacing = await reset(operator, job)
        assert await operator.ended(replacing) is JobStatus.COMPLETED
        assert replacing.replacement is not None
        kept.add(replacing.trash_database)
    if state == "trash":
        deletion = await operator.delete(job)
        assert await operator.ended(deletion) is JobStatus.COMPLETED
        dropped = str(deletion.trash_database)
    async with holding_drops(admin):
        purge = (await operator.instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        await operator.starter.start(purge)
        is_half_dropped = "SELECT datconnlimit = -2 FROM pg_database WHERE datname = $1"
        await wait_until(lambda: admin.fetchval(is_half_dropped, dropped), 20)
        await temporal.get_workflow_handle(job.workflow_id).terminate()
        answer = await cancel(api, purge.job_id)
    assert (answer.status_code, answer.json()["status"]) == (202, "Error")
    words = f"by then the database '{dropped}' was half dropped"
    assert words in answer.json()["errorMessage"]
    assert all(version in answer.json()["errorMessage"] for version in kept)
    left = await operator.queries.any_instance(job.instance_id)
    assert left is not None
    assert left.error_message == answer.json()["errorMessage"]
    await reconcile(temporal, settings)
    if has_version:
        assert await databases_of(admin, job.mark) == {dropped, *kept}
        await admin.execute(f'DROP DATABASE "{dropped}"')
    else:
        assert await operator.reached(purge, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
        assert await databases_of(admin, job.mark) == set()


@pytest.mark.usefixtures("workers")
async def test_rename_is_undone_when_it_is_cancelled_while_it_waits_for_a_lock(
    api: httpx.AsyncClient, operator: Operator, admin: asyncpg.Connection, temporal: Client, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    async with holding_limit(admin, job.database):
        rename = await operator.rename(job, f"{name} new")
        await operator.reached(rename, {JobStatus.IN_PROGRESS})
        assert (await cancel(api, rename.job_id)).status_code == 202
        await ends_as(operator, rename, InstanceStatus.ERROR, CANCELLED)
    await is_closed(temporal, job)
    assert await databases_of(admin, job.mark) == {job.database}
    assert (await operator.instance(job)).name == name


async def test_nothing_is_made_when_a_create_is_cancelled_before_a_worker_takes_it_up(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    tenant: Tenant,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await operator.create(name)  # its workflow is started, and nothing carries it out
    answer = await cancel(api, job.job_id)
    assert (answer.status_code, answer.json()["status"]) == (202, "Error")
    await ends_as(operator, job, InstanceStatus.ERROR, BEFORE)
    async with AsyncExitStack() as stack:
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, tenant))
        assert "no longer due" in await temporal.get_workflow_handle(job.workflow_id).result()
        await ends_as(operator, job, InstanceStatus.ERROR, BEFORE)
        assert await databases_of(admin, job.mark) == set()
        again = await operator.retry(job)
        assert await operator.reached(again, {JobStatus.COMPLETED}) is JobStatus.COMPLETED


@pytest.mark.usefixtures("workers")
async def test_instance_is_what_it_was_when_its_delete_is_cancelled_before_it_begins(
    api: httpx.AsyncClient, operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    for _ in range(2):
        deletion = (await operator.instances.request_delete(job.instance_id)).job
        assert (await cancel(api, deletion.job_id)).json()["errorMessage"] == BEFORE
        instance = await operator.instance(job)
        assert (instance.status, instance.error_message) == (InstanceStatus.COMPLETED, None)
        await operator.starter.start(deletion)  # a sweep that is late
    renamed = await operator.rename(job, f"{name} new")
    assert await operator.ended(renamed) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {renamed.final_database}
    assert (await operator.queries.ods_instance(job.ods_instance_id)) is not None
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {deletion.trash_database}


@pytest.mark.usefixtures("workers")
async def test_instance_keeps_its_name_when_its_rename_is_cancelled_before_it_begins(
    api: httpx.AsyncClient, operator: Operator, admin: asyncpg.Connection, temporal: Client, name: str
) -> None:
    job = await operator.create(name)
    await operator.ended(job)
    rename = (await operator.instances.request_rename(job.instance_id, f"{name} new")).job
    assert (await cancel(api, rename.job_id)).json()["errorMessage"] == BEFORE
    await operator.starter.start(rename)  # a sweep that is late
    await is_closed(temporal, rename)
    instance = await operator.instance(job)
    assert (instance.status, instance.name, instance.new_name) == (InstanceStatus.COMPLETED, name, None)
    assert await databases_of(admin, job.mark) == {job.database}
    ods_instance = await operator.queries.ods_instance(job.ods_instance_id)
    assert ods_instance is not None
    assert ods_instance.name == name
    renamed = await operator.rename(job, f"{name} new")
    assert await operator.ended(renamed) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {renamed.final_database}
    deletion = await operator.delete(job)
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await databases_of(admin, job.mark) == {deletion.trash_database}


@pytest.mark.usefixtures("workers")
async def test_job_ends_when_it_is_cancelled_and_its_workflow_was_terminated(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await is_copied(admin)
        await temporal.get_workflow_handle(job.workflow_id).terminate()
        answer = await cancel(api, job.job_id)
        assert (answer.status_code, answer.json()["status"]) == (202, "Error")
    await ends_as(operator, job, InstanceStatus.ERROR, CANCELLED)
    assert (await operator.instance(job)).attempt == 2, "the activity that may still run is superseded"


@pytest.mark.usefixtures("workers")
async def test_workflow_is_left_alone_when_it_carries_out_another_job_or_attempt(
    operator: Operator,
    temporal: Client,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    canceller = JobCanceller(temporal)
    async with in_use(admin, postgres, MINIMAL_TEMPLATE):
        job = await operator.create(name)
        await is_copied(admin)
        for other in (
            replace(job, attempt=2),
            replace(job, request="11111111-52f4-4f3c-8a43-0e8d7f4f3f10"),
            replace(job, mark="11111111-52f4-4f3c-8a43-0e8d7f4f3f10"),
            replace(job, installation="another"),
        ):
            assert await canceller.cancel(other) is CancelOutcome.MOVED_ON
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert await canceller.cancel(replace(job, ods_instance_id=2**31 - 1)) is CancelOutcome.NO_WORKFLOW


@pytest.mark.usefixtures("workers")
async def test_next_refresh_goes_on_when_the_one_before_is_cancelled(
    api: httpx.AsyncClient,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    postgres: EmbeddedPostgres,
    operator: Operator,
    rows: asyncpg.Connection,
) -> None:
    starter = RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings))
    async with ods_database(postgres) as database, session(service_dsn(postgres, database)) as holder:
        scope = Scope(await add_ods_instance(rows, "North", connection_string(postgres.port, database)))
        await holder.execute("BEGIN; LOCK TABLE edfi.educationorganization")
        first = await tenant.refreshes.request(scope)
        await starter.start(scope)

        async def begun() -> bool:
            job = await operator.queries.job(first)
            return job is not None and job.status == JobStatus.IN_PROGRESS

        await wait_until(begun, 20)
        second = await tenant.refreshes.request(scope)
        await starter.start(scope)
        assert (await cancel(api, first)).status_code == 202

        async def ended(job_id: str, status: JobStatus) -> bool:
            job = await operator.queries.job(job_id)
            return job is not None and job.status == status and job.finished_at is not None

        await wait_until(lambda: ended(first, JobStatus.ERROR), 20)
        assert (await api.get(f"/v2/jobs/{first}")).json()["errorMessage"] == (
            "The refresh was cancelled. Request another one."
        )
        await holder.execute("ROLLBACK")
        await wait_until(lambda: ended(second, JobStatus.COMPLETED), 20)
    assert (await cancel(api, second)).status_code == 409


@pytest.mark.usefixtures("workers")
async def test_refresh_ends_when_it_is_cancelled_and_no_workflow_carries_it_out(
    api: httpx.AsyncClient, tenant: Tenant
) -> None:
    scope = Scope(2**31 - 1)
    waiting = await tenant.refreshes.request(scope)
    assert (await cancel(api, waiting)).json()["status"] == "Error"
    lost = await tenant.refreshes.request(scope)
    assert await tenant.refreshes.begin(scope) == lost
    assert (await cancel(api, lost)).json()["status"] == "Error"
    assert await tenant.refreshes.begin(scope) is None
