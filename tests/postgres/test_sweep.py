"""One page of a sweep over the rows of a real registry."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from unittest.mock import AsyncMock

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.passes import ReconcileActivities, SweepActivities, SweepPage
from ods.databases.server import Server
from ods.model.arguments import Way
from ods.model.operations import JobStatus, Template
from ods.registry.instances.cancelling import CANCELLED_WITHOUT_WORKFLOW
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.settings.secret_files import CurrentDsn
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to, marked_by, stores
from tests.servers import session


async def nothing() -> None:
    """No row of an Admin API is to be adopted."""


class Starts:
    """Starts jobs, but for those that it has a fault for."""

    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}
        self.started: list[str] = []

    async def start(self, job: InstanceJob) -> None:
        await asyncio.sleep(0)
        if fault := self.faults.get(job.job_id):
            raise fault
        self.started.append(job.job_id)


def refusal(status: RPCStatusCode) -> RPCError:
    return RPCError("a text with a secret", status, b"")


@pytest.fixture
async def jobs(instances: InstanceStore, name: str) -> list[str]:
    """The ids of more jobs than are started at once."""
    requested = [await instances.reserve(f"{name} {number}", Template.MINIMAL) for number in range(15)]
    return [one.job.job_id for one in requested]


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "FAILED_PRECONDITION", "ABORTED"])
async def test_rest_of_the_page_is_started_when_temporal_refuses_a_row(
    job_store: JobStore, jobs: list[str], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    starts = Starts()
    starts.faults = {jobs[0]: refusal(RPCStatusCode[status]), jobs[12]: refusal(RPCStatusCode[status])}
    sweep = SweepActivities(job_store, starts.start, nothing, nothing)
    with caplog.at_level(logging.WARNING):
        swept = await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))

    assert swept.refused == [jobs[0], jobs[12]]
    assert swept.dispatched == 13
    assert sorted(starts.started) == sorted(set(jobs) - set(swept.refused))
    assert [record.getMessage() for record in caplog.records] == [
        f"{job} waits for the next sweep: {status}" for job in swept.refused
    ]

    starts.faults.clear()  # the rows wait as before
    again = await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))
    assert (again.dispatched, again.refused) == (15, [])


async def test_admin_api_is_followed_when_a_sweep_begins(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    await rows.execute("UPDATE adminapi.dbinstances SET status = 'PendingDelete'")
    starts = Starts()
    await ActivityEnvironment().run(
        SweepActivities(job_store, starts.start, nothing, nothing).dispatch_page, SweepPage(0, 100)
    )
    job = await rows.fetchrow(
        "SELECT jobid, status FROM adminapi.jobstatuses WHERE operation = 'Delete' AND dbinstanceid = $1",
        created.instance_id,
    )
    assert tuple(job or ()) == (*starts.started, "Pending")


@pytest.mark.parametrize("table", ["dbinstances", "jobstatuses"])
@pytest.mark.parametrize("trash", [timedelta(days=7), timedelta()])
async def test_other_rows_are_followed_and_started_when_another_session_has_locked_one(
    engine: AsyncEngine, rows: asyncpg.Connection, registry_dsn: str, name: str, trash: timedelta, table: str
) -> None:
    instances, job_store = stores(engine, trash=trash)
    way = "Trash" if trash else "Delete"
    locked = await bring_to(instances, job_store, "Delete_Failed", f"{name} A")  # whose job has a row
    overtaken = await bring_to(instances, job_store, "InProgress_Rename", f"{name} B")
    other = await bring_to(instances, job_store, "InProgress_Rename", f"{name} C")
    waiting = (await instances.reserve(f"{name} D", Template.MINIMAL)).job
    starts = Starts()
    sweep = SweepActivities(job_store, starts.start, nothing, nothing)
    deletes = [(one.instance_id, way) for one in (overtaken, other)]
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE id <> $1", waiting.instance_id
    )
    async with session(registry_dsn) as forgotten, forgotten.transaction():
        column = "id" if table == "dbinstances" else "dbinstanceid"
        await forgotten.execute(
            f"SELECT FROM adminapi.{table} WHERE {column} = ANY($1) FOR UPDATE",
            [locked.instance_id, overtaken.instance_id],
        )
        async with asyncio.timeout(5):
            await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))
        assert waiting.job_id in starts.started
        due = {one.instance_id: one for one in await job_store.waiting_jobs(0, 10)}
        assert due[other.instance_id].rules.name == way
        assert await job_status(rows, due[other.instance_id]) == "Pending"
        assert await job_status(rows, other) == "Error"
        assert await job_status(rows, overtaken) == ("InProgress" if table == "jobstatuses" else "Error")
        assert await job_status(rows, locked) == "Error"

    await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))
    due = {one.instance_id: one for one in await job_store.waiting_jobs(0, 10)}
    assert [(number, due[number].rules.name) for number, _ in deletes] == deletes
    for number in (locked.instance_id, *dict(deletes)):
        assert await job_status(rows, due[number]) == "Pending"
        assert due[number].job_id in starts.started
    assert await job_status(rows, overtaken) == "Error"


async def job_status(rows: asyncpg.Connection, job: InstanceJob) -> str | None:
    """What the row of a job says."""
    found: str | None = await rows.fetchval(
        "SELECT status FROM adminapi.jobstatuses WHERE jobid = $1", job.job_id
    )
    return found


@pytest.mark.parametrize(
    "fault",
    [
        *(refusal(status) for status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED)),
        *(refusal(status) for status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.RESOURCE_EXHAUSTED)),
        RuntimeError("not connected"),
    ],
)
async def test_page_fails_as_a_whole_when_temporal_is_away(
    job_store: JobStore, jobs: list[str], fault: Exception
) -> None:
    starts = Starts()
    starts.faults = {jobs[0]: refusal(RPCStatusCode.INVALID_ARGUMENT), jobs[3]: fault}
    sweep = SweepActivities(job_store, starts.start, nothing, nothing)
    with pytest.raises(type(fault)) as raised:
        await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))
    assert raised.value is fault


async def test_stuck_job_is_left_to_the_next_sweep_when_temporal_refuses_its_restart(
    instances: InstanceStore, job_store: JobStore, server: Server, tenant: Tenant, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    starts = Starts()
    starts.faults = {job.job_id: refusal(RPCStatusCode.INVALID_ARGUMENT)}
    reconcile = restarting(job_store, server, tenant, starts)
    assert not await ActivityEnvironment().run(reconcile.restart, job)
    assert [waiting.job_id for waiting in await job_store.waiting_jobs(0, 10)] == [job.job_id]

    starts.faults = {job.job_id: refusal(RPCStatusCode.UNAVAILABLE)}
    with pytest.raises(RPCError):
        await ActivityEnvironment().run(reconcile.restart, job)


@pytest.mark.parametrize("state", ["InProgress", "InProgress_Delete", "InProgress_Rename"])
async def test_stuck_job_is_not_done_again_when_its_client_has_cancelled_it(
    instances: InstanceStore, job_store: JobStore, server: Server, tenant: Tenant, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    assert await tenant.cancellations.record(job)
    starts = Starts()
    reconcile = restarting(job_store, server, tenant, starts)
    async with server.locked(job.mark) as late:
        backend = late.get_server_pid()
        assert not await ActivityEnvironment().run(reconcile.restart, job)
        async with server.session() as other:
            assert not await other.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", backend)
    ended = await tenant.queries.job(job.job_id)
    assert ended is not None
    assert (ended.status, ended.error_message) == (JobStatus.ERROR, CANCELLED_WITHOUT_WORKFLOW)
    assert not (await job_store.begin(replace(job, attempt=job.attempt + 1))).held
    assert not await ActivityEnvironment().run(reconcile.restart, job), "also if the activity is tried again"
    assert starts.started == []


async def test_cancelled_job_waits_for_the_next_pass_when_the_server_is_away(
    instances: InstanceStore, job_store: JobStore, tenant: Tenant, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Delete", name)
    assert await tenant.cancellations.record(job)
    starts = Starts()
    away = Server(CurrentDsn(SecretStr("postgresql://ods@127.0.0.1:1/postgres"), "The address"))
    reconcile = restarting(job_store, away, tenant, starts)
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(reconcile.restart, job)
    assert await tenant.cancellations.is_cancelled(job)
    assert starts.started == []


async def test_later_attempts_and_jobs_are_restarted_when_an_earlier_one_was_cancelled(
    instances: InstanceStore, job_store: JobStore, server: Server, tenant: Tenant, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress_Rename", name)
    assert await tenant.cancellations.record(job)
    starts = Starts()
    reconcile = restarting(job_store, server, tenant, starts)
    assert await job_store.fail(job, "The job was cancelled.", cancelled=True)
    again = (await instances.request_retry(job.instance_id)).job
    assert (await job_store.begin(again)).held
    assert not await tenant.cancellations.is_cancelled(again)
    assert await ActivityEnvironment().run(reconcile.restart, again)
    third = replace(again, attempt=again.attempt + 1)
    assert (await job_store.begin(third)).held
    assert await job_store.fail(third, "No luck.")
    deletion = (await instances.request_delete(job.instance_id)).job
    assert (await job_store.begin(deletion)).held
    assert await ActivityEnvironment().run(reconcile.restart, deletion)
    assert starts.started == [job.job_id, deletion.job_id]


@pytest.mark.parametrize(("state", "failed"), [("Completed", "Delete_Failed"), ("Deleted", "Deleted")])
async def test_drop_is_not_tried_again_when_it_was_cancelled_while_an_outage_ended_it(
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    tenant: Tenant,
    name: str,
    state: str,
    failed: str,
) -> None:
    number = (await bring_to(instances, job_store, state, name)).instance_id
    job = (await instances.request_delete(number, Delete(Way.DROP))).job
    assert (await job_store.begin(job)).held
    assert await tenant.cancellations.record(job)  # by a client, when the workflow has given up
    for _ in range(2):  # also if the activity is tried again
        assert await job_store.fail(job, "The server cannot be reached.", outage=True)
    row = await tenant.queries.any_instance(number)
    assert row is not None
    assert (row.status, row.database.purge_after) == (failed, None)
    assert await job_store.unfinished_deletes({}) == []
    starts = Starts()
    assert not await ActivityEnvironment().run(restarting(job_store, server, tenant, starts).restart, job)
    assert starts.started == []


async def test_purge_is_finished_when_it_was_cancelled_after_its_drop_had_begun(
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    tenant: Tenant,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    deleted = await bring_to(instances, job_store, "Deleted", name)
    purge = (await instances.request_purge(deleted.instance_id)).job
    assert (await job_store.begin(purge)).held
    assert await tenant.cancellations.record(purge)
    assert await job_store.fail(purge, "The job was cancelled.", cancelled=True)
    starts = Starts()
    reconcile = restarting(job_store, server, tenant, starts)
    trash = str(purge.trash_database)
    await admin.execute(f'CREATE DATABASE "{trash}"')
    try:
        await admin.execute(f"COMMENT ON DATABASE \"{trash}\" IS '{marked_by(purge).comment}'")
        assert not await ActivityEnvironment().run(reconcile.restart, purge), "it is whole"
        await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", trash)
        assert await ActivityEnvironment().run(reconcile.restart, purge)
    finally:
        await admin.execute(f'DROP DATABASE "{trash}"')
    assert starts.started == [purge.job_id]


def restarting(job_store: JobStore, server: Server, tenant: Tenant, starts: Starts) -> ReconcileActivities:
    unused = cast("Any", None)
    return ReconcileActivities(
        AsyncMock(),
        job_store,
        server,
        unused,
        unused,
        starts.start,
        unused,
        unused,
        unused,
        tenant.cancellations,
    )
