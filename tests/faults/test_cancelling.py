"""A job that is cancelled in the middle of its work, by a worker process that may be killed or suspended."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation, Template
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.temporal.schedules import RECONCILE
from ods.tenants.job_owners import owner_of
from tests.api.service import bearer, client_of, running
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_held_until_interrupted, clone_is_running
from tests.preloaded import Process
from tests.servers import session

_LATE = """
SELECT pid FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ~ ('ALTER DATABASE.*' || $1)
"""
_NAMES = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1"


@pytest.fixture
async def api(settings: Settings, own_temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that reaches Temporal."""
    address = own_temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


@pytest.mark.parametrize("killed", [False, True])
async def test_half_a_clone_is_removed_when_the_create_is_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    big_settings: Settings,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    name: str,
    *,
    killed: bool,
) -> None:
    worker = await worker_process.start(big_settings)
    job = await operator.create(name, Template.SAMPLE)
    await clone_is_running(admin)
    async with nullcontext() if killed else clone_held_until_interrupted(admin):
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
    if killed:
        worker.kill()
        await worker.wait()
        await worker_process.start(big_settings)
    assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    assert (instance.status, instance.error_message) == (InstanceStatus.ERROR, "The job was cancelled.")

    async def is_removed() -> bool:
        return not await admin.fetch(
            "SELECT 1 FROM pg_database WHERE datname IN ($1, $2)",
            job.database,
            owner_of(job).staging_name,
        )

    await wait_until(is_removed, 30)


@pytest.mark.parametrize("operation", [Operation.RENAME, Operation.DELETE])
async def test_database_is_left_when_the_worker_is_killed_after_the_job_was_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    name: str,
    operation: Operation,
) -> None:
    worker = await worker_process.start(settings)
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.COMPLETED
    async with admin.transaction():  # which the step waits for, and its session still does when it is killed
        await admin.execute(f'ALTER DATABASE "{created.database}" CONNECTION LIMIT -1')
        renames = operation is Operation.RENAME
        job = await (operator.rename(created, f"{name} new") if renames else operator.delete(created))
        await _step_waits(admin, created.database)
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
        worker.kill()
        await worker.wait()
        await worker_process.start(settings)
        assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    expected = InstanceStatus.ERROR if renames else InstanceStatus.DELETE_FAILED
    assert (instance.status, instance.error_message) == (expected, "The job was cancelled.")
    assert await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", created.database)
    await wait_until(partial(is_undone, operator, job), 20)
    again = await (operator.rename(created, f"{name} newer") if renames else operator.delete(created))
    assert await operator.ended(again) is JobStatus.COMPLETED
    assert not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", created.database)


async def is_undone(operator: Operator, job: InstanceJob) -> bool:
    instance = await operator.instance(job)
    return not instance.undo_due and instance.replacement is None


async def _step_waits(admin: asyncpg.Connection, database: str) -> None:
    """Wait until a statement of a worker waits for the lock on the database."""

    async def waits() -> bool:
        await admin.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees the same until then
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
        return bool(await admin.fetch(query, f'%ALTER DATABASE "{database}" %'))

    await wait_until(waits, 20)


@pytest.mark.parametrize("kind", ["Delete", "Trash", "Detach", "Purge"])
async def test_database_is_left_when_a_suspended_worker_goes_on_after_the_job_was_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    kind: str,
) -> None:
    first = await worker_process.start(settings)
    created = await _completed(operator, name, kind)
    async with _suspended(operator, first, postgres, admin, created, kind) as (job, late, database):
        await worker_process.start(settings)
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
        assert await operator.ended(job) is JobStatus.ERROR
        assert await _is_gone(admin, late)
        assert await _names(admin, created) == [database]
    instance = await operator.instance(created)
    failed = (InstanceStatus.DELETE_FAILED, "The job was cancelled.")
    in_trash = (InstanceStatus.DELETED, None)
    is_purge = kind == "Purge"
    assert (instance.status, instance.error_message) == (in_trash if is_purge else failed)
    again = await (_started(operator, created, "Undelete") if kind == "Purge" else operator.retry(created))
    assert await operator.ended(again) is JobStatus.COMPLETED
    if kind == "Detach":
        await admin.execute(f'DROP DATABASE "{created.database}"')


@pytest.mark.parametrize("is_released", [False, True], ids=["lost", "waiting"])
@pytest.mark.parametrize("kind", ["Delete", "Purge", "Reset"])
async def test_late_session_has_ended_when_the_answer_tells_that_a_job_without_a_workflow_is_cancelled(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    own_temporal: Client,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    kind: str,
    *,
    is_released: bool,
) -> None:
    first = await worker_process.start(settings)
    created = await _completed(operator, name, kind)
    async with _suspended(operator, first, postgres, admin, created, kind) as (job, late, database):
        await own_temporal.get_workflow_handle(job.workflow_id).terminate()
        if is_released:
            assert await operator.jobs.release(job), "as the reconcile pass does it"
        answer = await api.post(f"/v2/jobs/{job.job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, JobStatus.ERROR)
        assert await _is_gone(admin, late)
        assert database in await _names(admin, created)


@pytest.mark.parametrize("kind", ["Delete", "Purge", "Reset"])
async def test_database_is_left_when_the_workflow_is_terminated_before_it_ends_a_cancelled_job(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    own_temporal: Client,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
    kind: str,
) -> None:
    """As `docs/operations/incidents.md` has it done when a worker cannot end its jobs."""
    first = await worker_process.start(settings)
    created = await _completed(operator, name, kind)
    await wait_until(partial(_pass_has_ended, own_temporal), 20)  # the next one would wait for it
    async with _suspended(operator, first, postgres, admin, created, kind) as (job, late, database):
        first.kill()  # its session goes on
        await first.wait()
        answer = await api.post(f"/v2/jobs/{job.job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, JobStatus.IN_PROGRESS)
        await own_temporal.get_workflow_handle(job.workflow_id).terminate()
        await worker_process.start(settings)  # it reconciles at once
        assert await operator.ended(job) is JobStatus.ERROR
        assert await _is_gone(admin, late)
    assert database in await _names(admin, created)
    await wait_until(partial(is_undone, operator, job), 20)
    again = await _started(operator, created, "Undelete" if kind == "Purge" else kind)
    assert await operator.ended(again) is JobStatus.COMPLETED


async def _pass_has_ended(temporal: Client) -> bool:
    """Whether the reconcile pass with which a worker begins has ended; it makes the schedule last."""
    try:
        info = (await temporal.get_schedule_handle(RECONCILE).describe()).info
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return info.num_actions > 0 and not info.running_actions


async def _completed(operator: Operator, name: str, kind: str) -> InstanceJob:
    """An instance on which a job of this `kind` can be requested."""
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.COMPLETED
    if kind == "Purge":
        assert await operator.ended(await operator.delete(created)) is JobStatus.COMPLETED
    return created


@asynccontextmanager
async def _suspended(
    operator: Operator,
    worker: Process,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    created: InstanceJob,
    kind: str,
) -> AsyncIterator[tuple[InstanceJob, int, str]]:
    """A job, the backend of its worker, which is suspended in the middle of it, and the database's name."""
    (database,) = await _names(admin, created)
    async with session(postgres.dsn()) as other, other.transaction():
        await other.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        job = await _started(operator, created, kind)
        await wait_until(partial(admin.fetchval, _LATE, database), 20)
        late = await admin.fetchval(_LATE, database)
        worker.send_signal(signal.SIGSTOP)
    try:
        yield job, late, database
    finally:
        with suppress(ProcessLookupError):  # it was killed
            worker.send_signal(signal.SIGCONT)


async def _started(operator: Operator, created: InstanceJob, kind: str) -> InstanceJob:
    instances, identifier = operator.instances, created.instance_id
    match kind:
        case "Undelete":
            requested = await instances.request_undelete(identifier)
        case "Reset":
            requested = await instances.request_reset(identifier)
        case _:
            way = {"Trash": None, "Purge": Way.DROP, "Delete": Way.DROP, "Detach": Way.LEAVE}[kind]
            requested = await instances.request_delete(identifier, Delete(way))
    await operator.starter.start(requested.job)
    return requested.job


async def _names(admin: asyncpg.Connection, created: InstanceJob) -> list[str]:
    """The names of the databases that carry the mark of the instance."""
    return [row["datname"] for row in await admin.fetch(_NAMES, f"%{created.mark}%")]


async def _is_gone(admin: asyncpg.Connection, backend: int) -> bool:
    return not await admin.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", backend)
