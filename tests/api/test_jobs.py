import re
from datetime import datetime
from functools import partial

import httpx
import pytest

from ods.embedded.polling import wait_until
from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import JobWait
from ods.registry.instances.store import InstanceStore
from tests.servers import session

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


async def test_job_is_shown_with_nulls_when_it_is_pending(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    requested = await instances.reserve("Waiting", Template.MINIMAL)
    job = (await api.get(f"/v2/jobs/{requested.job.job_id}")).json()

    assert UTC_TIME.fullmatch(job.pop("createdAt"))
    assert job == {
        "jobId": requested.job.job_id,
        "status": "Pending",
        "operation": "Create",
        "instanceId": requested.instance.id,
        "startedAt": None,
        "finishedAt": None,
        "errorMessage": None,
        "percent": None,
        "etaSeconds": None,
        "waiting": None,
    }


async def test_what_a_job_waits_for_is_told_when_an_outage_holds_it_up(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = (await instances.reserve("Waiting", Template.MINIMAL)).job
    await job_store.begin(job)
    await job_store.record_wait(JobWait(job, "The server cannot be reached.", 60, 3540))
    for answer in (
        await api.get(f"/v2/jobs/{job.job_id}"),
        await api.get(f"/v2/dbInstances/{job.instance_id}"),
    ):
        told = answer.json()
        assert (told["status"], told["waiting"]["for"]) == ("InProgress", "The server cannot be reached.")
        since, until = (datetime.fromisoformat(told["waiting"][at]) for at in ("since", "until"))
        assert (until - since).total_seconds() == pytest.approx(3600, abs=1)
        # Clients that know the Admin API alone look there, and compare the status.
        assert told["errorMessage"] == (
            f"The job has not failed. It waits, until {until:%Y-%m-%d %H:%M:%S} UTC at the latest: The server"
            " cannot be reached."
        )
    await job_store.end_wait(job)
    for path in (f"/v2/jobs/{job.job_id}", f"/v2/dbInstances/{job.instance_id}"):
        told = (await api.get(path)).json()
        assert (told["waiting"], told["errorMessage"]) == (None, None)


async def test_jobs_wait_for_the_operator_when_the_registry_is_not_confirmed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, registry_dsn: str
) -> None:
    done = (await instances.reserve("Done", Template.MINIMAL)).job
    await job_store.begin(done)
    await job_store.finish_create(done, "encrypted")
    pending, running = [(await instances.reserve(name, Template.MINIMAL)).job for name in ("One", "Two")]
    await job_store.begin(running)
    moved = "UPDATE adminapi.installation SET registrydatabase = registrydatabase + $1"
    async with session(registry_dsn) as rows:
        await rows.execute(moved, 1)

        async def is_told(*, waits: bool) -> bool:
            told = (await api.get(f"/v2/jobs/{pending.job_id}")).json()
            return bool(told["waiting"]) == waits

        try:
            await wait_until(partial(is_told, waits=True), 10)
            listed = {job["jobId"]: job for job in (await api.get("/v2/jobs")).json()}
            for job, status in ((pending, "Pending"), (running, "InProgress")):
                instance = (await api.get(f"/v2/dbInstances/{job.instance_id}")).json()
                for told in (listed[job.job_id], instance):
                    assert (told["status"], told["waiting"]["until"]) == (status, None)
                    assert told["errorMessage"].startswith("The job has not failed. It waits: This registry")
                    assert "`ods recover --apply --confirm`" in told["errorMessage"]
                managed = (await api.get(f"/v2/odsInstances/manage/{job.instance_id}")).json()
                assert managed["status"] == ("PendingCreate" if job is pending else "CreateInProgress")
                assert len(managed) == 9
            assert (listed[done.job_id]["waiting"], listed[done.job_id]["errorMessage"]) == (None, None)
        finally:
            await rows.execute(moved, -1)
        await wait_until(partial(is_told, waits=False), 10)


async def test_job_tells_the_reason_when_it_has_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await instances.reserve("Failing", Template.MINIMAL)
    await job_store.begin(requested.job)
    await job_store.fail(requested.job, "The template is missing.")
    job = (await api.get(f"/v2/jobs/{requested.job.job_id}")).json()

    assert (job["status"], job["errorMessage"]) == ("Error", "The template is missing.")
    assert UTC_TIME.fullmatch(job["finishedAt"])


@pytest.mark.parametrize("job", ["CreateInstanceJob-1-1", "x", "%00", "%ED%A0%80", "x" * 5000])
async def test_job_is_not_found_when_no_job_has_the_id(idle_api: httpx.AsyncClient, job: str) -> None:
    answer = await idle_api.get(f"/v2/jobs/{job}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: job with ID ")
