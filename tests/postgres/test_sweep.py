"""One page of a sweep over the rows of a real registry."""

import asyncio
import logging
from typing import Any, cast

import asyncpg
import pytest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.reconcile import ReconcileActivities
from activities.sweep import SweepActivities, SweepPage
from databases.server import Server
from registry.instances.job_store import JobStore
from registry.instances.jobs import InstanceJob
from registry.instances.status import Template
from registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to


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
    sweep = SweepActivities(job_store, starts.start)
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
    await ActivityEnvironment().run(SweepActivities(job_store, starts.start).dispatch_page, SweepPage(0, 100))
    job = await rows.fetchrow(
        "SELECT jobid, status FROM adminapi.jobstatuses WHERE operation = 'Delete' AND dbinstanceid = $1",
        created.instance_id,
    )
    assert tuple(job or ()) == (*starts.started, "Pending")


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
    sweep = SweepActivities(job_store, starts.start)
    with pytest.raises(type(fault)) as raised:
        await ActivityEnvironment().run(sweep.dispatch_page, SweepPage(0, 100))
    assert raised.value is fault


async def test_stuck_job_is_left_to_the_next_sweep_when_temporal_refuses_its_restart(
    instances: InstanceStore, job_store: JobStore, server: Server, name: str
) -> None:
    job = await bring_to(instances, job_store, "InProgress", name)
    starts, unused = Starts(), cast("Any", None)
    starts.faults = {job.job_id: refusal(RPCStatusCode.INVALID_ARGUMENT)}
    reconcile = ReconcileActivities(job_store, server, unused, unused, starts.start, unused, unused, unused)
    assert not await ActivityEnvironment().run(reconcile.restart, job)
    assert [waiting.job_id for waiting in await job_store.waiting_jobs(0, 10)] == [job.job_id]

    starts.faults = {job.job_id: refusal(RPCStatusCode.UNAVAILABLE)}
    with pytest.raises(RPCError):
        await ActivityEnvironment().run(reconcile.restart, job)
