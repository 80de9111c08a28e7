import re
from datetime import datetime

import httpx
import pytest

from registry.instances.job_store import JobStore
from registry.instances.jobs import JobWait
from registry.instances.status import Template
from registry.instances.store import InstanceStore

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
        waiting = answer.json()["waiting"]
        assert waiting["for"] == "The server cannot be reached."
        since, until = (datetime.fromisoformat(waiting[at]) for at in ("since", "until"))
        assert (until - since).total_seconds() == pytest.approx(3600, abs=1)
    await job_store.fail(job, "It was away for too long.", outage=True)
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["waiting"] is None


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
