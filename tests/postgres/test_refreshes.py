"""Refresh jobs: at most one of a scope runs and at most one waits, however many clients ask."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.education_organizations import RefreshActivities
from ods.model.operations import JobStatus
from ods.registry.education_organizations.refreshes import RefreshJobs, Scope

EVERYTHING, ONE, OTHER = Scope(None), Scope(7), Scope(8)


@pytest.fixture
def jobs(engine: AsyncEngine) -> RefreshJobs:
    return RefreshJobs(engine)


async def test_job_waits_when_it_was_requested(jobs: RefreshJobs, rows: asyncpg.Connection) -> None:
    job_id = await jobs.request(ONE)
    (row,) = await rows.fetch("SELECT * FROM adminapi.jobstatuses")
    assert (row["jobid"], row["status"], row["operation"]) == (job_id, "Pending", "Refresh")
    assert row["odsinstanceid"] == 7
    assert row["createdat"] is not None
    assert row["finishedat"] is None


@pytest.mark.parametrize("scope", [EVERYTHING, ONE])
async def test_one_job_waits_when_many_ask_at_once(jobs: RefreshJobs, scope: Scope) -> None:
    assert len(set(await asyncio.gather(*(jobs.request(scope) for _ in range(20))))) == 1


async def test_another_job_waits_when_the_first_has_begun(jobs: RefreshJobs) -> None:
    first = await jobs.request(ONE)
    assert await jobs.begin(ONE) == first
    second = await jobs.request(ONE)
    assert second != first
    assert await jobs.request(ONE) == second
    assert await jobs.begin(ONE) == first, "it is due until it has ended"
    await jobs.finish(first, JobStatus.COMPLETED, None)
    assert await jobs.begin(ONE) == second


async def test_nothing_is_due_when_no_job_of_the_scope_is_unfinished(jobs: RefreshJobs) -> None:
    await jobs.request(EVERYTHING)
    assert await jobs.begin(ONE) is None
    await jobs.finish(await jobs.request(ONE), JobStatus.COMPLETED, None)  # it waits: it cannot end
    assert await jobs.begin(ONE) is not None


async def test_outcome_stays_when_it_is_recorded_again(jobs: RefreshJobs, rows: asyncpg.Connection) -> None:
    await jobs.request(ONE)
    job_id = await jobs.begin(ONE)
    assert job_id is not None
    await jobs.finish(job_id, JobStatus.COMPLETED, "One could not be read.")
    before = await rows.fetch("SELECT * FROM adminapi.jobstatuses")
    await jobs.finish(job_id, JobStatus.ERROR, "Late.")
    assert await rows.fetch("SELECT * FROM adminapi.jobstatuses") == before
    assert (before[0]["status"], before[0]["errormessage"]) == ("Completed", "One could not be read.")
    assert before[0]["createdat"] <= before[0]["startedat"] <= before[0]["finishedat"]


async def test_scopes_are_told_when_their_jobs_wait_or_run(engine: AsyncEngine) -> None:
    jobs = RefreshJobs(engine, "north")
    for scope in (EVERYTHING, ONE, OTHER):
        await jobs.request(scope)
    running, ended = await jobs.begin(ONE), await jobs.begin(OTHER)
    assert running is not None
    assert ended is not None
    await jobs.request(ONE)
    await jobs.finish(ended, JobStatus.ERROR, "No.")
    unfinished = sorted(await jobs.unfinished(), key=lambda scope: scope.ods_instance_id or 0)
    assert unfinished == [Scope(None, "north"), Scope(7, "north")]


async def test_schedule_asks_for_nothing_when_a_refresh_of_everything_is_under_way(
    jobs: RefreshJobs, rows: asyncpg.Connection
) -> None:
    await jobs.request(ONE)
    await jobs.request_unless_unfinished(EVERYTHING)
    await jobs.request_unless_unfinished(EVERYTHING)
    await jobs.begin(EVERYTHING)
    await jobs.request_unless_unfinished(EVERYTHING)
    assert await rows.fetchval("SELECT count(*) FROM adminapi.jobstatuses") == 2


def test_workflow_ids_differ_when_tenants_or_scopes_do() -> None:
    scopes = [EVERYTHING, ONE, Scope(None, "north"), Scope(7, "north")]
    assert [scope.workflow_id for scope in scopes] == [
        "refresh-education-organizations",
        "refresh-education-organizations-7",
        "north:refresh-education-organizations",
        "north:refresh-education-organizations-7",
    ]


async def test_other_scopes_are_started_when_temporal_refuses_one(
    jobs: RefreshJobs,
) -> None:
    started = []

    async def start(scope: Scope) -> None:
        if scope == ONE:
            raise RPCError("too large", RPCStatusCode.INVALID_ARGUMENT, b"")
        started.append(scope)

    for scope in (EVERYTHING, ONE, OTHER):
        await jobs.request(scope)
    activities = RefreshActivities(jobs, start)
    assert await ActivityEnvironment().run(activities.dispatch_refreshes) == 2
    assert set(started) == {EVERYTHING, OTHER}
