import re

import httpx
import pytest

from instances.registry import Registry
from instances.status import Template

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


async def test_job_is_shown_with_nulls_when_it_is_pending(api: httpx.AsyncClient, registry: Registry) -> None:
    requested = await registry.reserve("Waiting", Template.MINIMAL)
    job = (await api.get(f"/v2/jobs/{requested.job.job_id}")).json()

    assert UTC_TIME.fullmatch(job.pop("createdAt"))
    assert job == {
        "jobId": requested.job.job_id,
        "status": "Pending",
        "finishedAt": None,
        "errorMessage": None,
    }


async def test_job_tells_the_reason_when_it_has_failed(api: httpx.AsyncClient, registry: Registry) -> None:
    requested = await registry.reserve("Failing", Template.MINIMAL)
    await registry.begin(requested.job)
    await registry.fail(requested.job, "The template is missing.")
    job = (await api.get(f"/v2/jobs/{requested.job.job_id}")).json()

    assert (job["status"], job["errorMessage"]) == ("Error", "The template is missing.")
    assert UTC_TIME.fullmatch(job["finishedAt"])


@pytest.mark.parametrize("job", ["CreateInstanceJob-1-1", "x", "%00", "%ED%A0%80", "x" * 5000])
async def test_job_is_not_found_when_no_job_has_the_id(idle_api: httpx.AsyncClient, job: str) -> None:
    answer = await idle_api.get(f"/v2/jobs/{job}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: job with ID ")
