"""Requests to abandon a failed job: what Temporal is told, and how the others are refused."""

from dataclasses import replace

import httpx
import pytest
from temporalio.client import Client

from ods.model.arguments import Way
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from tests.api.service import bearer, client_of, running, tokens
from tests.postgres.instance_states import bring_to


async def abandon(api: httpx.AsyncClient, job_id: str) -> httpx.Response:
    return await api.post(f"/v2/jobs/{job_id}/abandon")


async def test_the_workflow_is_told_when_a_failed_job_is_abandoned(
    settings: Settings, temporal: Client, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error", "Failed")
    await JobStarter(temporal, settings.registry_queue).start(job)
    workflow = temporal.get_workflow_handle(job.workflow_id)
    address = temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as api:
        answer = await abandon(api, job.job_id)
        assert answer.status_code == 202
        assert answer.headers["Location"] == f"/v2/jobs/{job.job_id}"
        assert answer.json() == (await api.get(f"/v2/jobs/{job.job_id}")).json()
        assert answer.json()["status"] == "Error"
        history = await workflow.fetch_history()
        signals = [event.workflow_execution_signaled_event_attributes for event in history.events]
        assert [signal.signal_name for signal in signals if signal.signal_name] == ["abandon"]
        await workflow.terminate()
        refused = await abandon(api, job.job_id)
        assert refused.status_code == 409
        assert refused.json()["nextStep"].startswith("Nothing is left to abandon.")


@pytest.mark.parametrize("state", ["Completed", "Deleted"])
async def test_no_pass_tries_a_purge_again_when_it_is_abandoned_that_an_outage_has_ended(
    settings: Settings, temporal: Client, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    number = (await bring_to(instances, job_store, state, "Wanted after all")).instance_id
    job = (await instances.request_delete(number, Delete(Way.DROP))).job
    assert (await job_store.begin(job)).held
    assert await job_store.fail(job, "The server was away.", outage=True)
    assert [one.job_id for one in await job_store.unfinished_deletes({})] == [job.job_id]
    address = temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as api:
        refused = await api.post(f"/v2/jobs/{job.job_id}/cancel")
        assert refused.status_code == 409
        assert f"/v2/jobs/{job.job_id}/abandon" in refused.json()["nextStep"]
        answer = await abandon(api, job.job_id)
        assert (answer.status_code, answer.json()["status"]) == (202, "Error")
        assert await job_store.unfinished_deletes({}) == []
        assert await job_store.release(job) is None, "by a pass that has listed it before"
        again = await abandon(api, job.job_id)
        assert (again.status_code, again.json()["nextStep"][:7]) == (409, "Nothing")
        refused = await api.post(f"/v2/jobs/{job.job_id}/cancel")
        assert refused.json()["nextStep"].startswith("Nothing is left to cancel.")
    # What is half dropped already cannot be called off.
    name = job.trash_database if state == "Deleted" else job.database
    due = await job_store.release(job, {str(name): job.mark})
    assert due is not None
    assert due.attempt == job.attempt + 1


@pytest.mark.parametrize("waits", [True, False], ids=["workflow waits", "workflow has ended"])
async def test_purge_is_not_abandoned_when_a_pass_tries_it_again_at_that_moment(
    settings: Settings,
    temporal: Client,
    instances: InstanceStore,
    job_store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    waits: bool,
) -> None:
    number = (await bring_to(instances, job_store, "Deleted", "Wanted after all")).instance_id
    job = (await instances.request_delete(number, Delete(Way.DROP))).job
    if waits:
        await JobStarter(temporal, settings.registry_queue).start(job)
    assert (await job_store.begin(job)).held
    assert await job_store.fail(job, "The server was away.", outage=True)
    give_up = JobCancellations.give_up

    async def come_too_late(self: JobCancellations, attempt: InstanceJob) -> bool:
        assert await job_store.release(attempt) is not None
        return await give_up(self, attempt)

    monkeypatch.setattr(JobCancellations, "give_up", come_too_late)
    address = temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as api:
        refused = await abandon(api, job.job_id)
        assert refused.status_code == 409
        assert f"/v2/jobs/{job.job_id}/cancel" in refused.json()["nextStep"]
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
    assert await job_store.waiting_jobs(0, 10) == []
    if waits:
        await temporal.get_workflow_handle(job.workflow_id).terminate()


async def follow(instances: InstanceStore, job_store: JobStore, job: InstanceJob, how: str) -> None:
    """Let happen what may follow the failure of a reset at any moment."""
    match how:
        case "undone":
            await job_store.end_replacement(job)
        case "done after all":
            assert await job_store.follow_exchange(job)
        case "another job":
            await job_store.end_replacement(job)
            await instances.request_rename(job.instance_id, f"{job.name} 2")
        case "retried":
            assert (await job_store.begin(replace(job, attempt=2))).held
        case _:
            pytest.fail(how)


@pytest.mark.parametrize(
    ("how", "answered"), [("undone", 202), ("done after all", 202), ("another job", 202), ("retried", 409)]
)
async def test_reset_is_abandoned_when_its_clean_up_ends_at_that_moment_but_not_when_it_is_retried(
    settings: Settings,
    temporal: Client,
    instances: InstanceStore,
    job_store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    answered: int,
) -> None:
    number = (await bring_to(instances, job_store, "Completed", "Wanted after all")).instance_id
    job = (await instances.request_reset(number)).job
    await JobStarter(temporal, settings.registry_queue).start(job)
    assert (await job_store.begin(job)).held
    assert await job_store.fail(job, "The server was away.")
    give_up = JobCancellations.give_up

    async def come_too_late(self: JobCancellations, attempt: InstanceJob) -> bool:
        await follow(instances, job_store, attempt, how)
        return await give_up(self, attempt)

    monkeypatch.setattr(JobCancellations, "give_up", come_too_late)
    address = temporal.service_client.config.target_host
    async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as api:
        answer = await abandon(api, job.job_id)
        assert answer.status_code == answered
        if how == "retried":
            assert f"/v2/jobs/{job.job_id}/cancel" in answer.json()["nextStep"]
    await temporal.get_workflow_handle(job.workflow_id).terminate()


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Completed", "Pending_Delete", "Deleted"])
async def test_the_reason_is_told_when_the_job_has_not_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Not failed")
    before = (await api.get(f"/v2/jobs/{job.job_id}")).json()
    answer = await abandon(api, job.job_id)
    assert answer.status_code == 409
    assert answer.json()["state"] == before["status"]
    assert "only when it has failed" in answer.json()["detail"]
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json() == before


async def test_another_job_is_left_alone_when_it_has_followed_the_failed_one(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    failed = await bring_to(instances, job_store, "Error", "Failed")
    await instances.request_delete(failed.instance_id)
    answer = await abandon(api, failed.job_id)
    assert answer.status_code == 409
    assert "another job may have followed" in answer.json()["nextStep"]


async def test_temporal_is_needed_when_a_failed_job_is_abandoned(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error", "Failed")
    answer = await abandon(api, job.job_id)
    assert answer.status_code == 503
    assert answer.json()["title"] == "Temporal cannot be reached"
    assert "cancel" not in answer.text


async def test_job_is_not_found_when_no_job_with_the_id_can_be_abandoned(idle_api: httpx.AsyncClient) -> None:
    assert (await abandon(idle_api, "CreateInstanceJob-999-1")).status_code == 404


async def test_nothing_is_abandoned_when_the_client_may_only_read_or_has_no_token(
    stranger: httpx.AsyncClient, settings: Settings, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error", "Failed")
    reading = tokens(settings).issue("a-client", "edfi_admin_api/readonly_access")
    assert (await abandon(stranger, job.job_id)).status_code == 401
    stranger.headers["Authorization"] = f"Bearer {reading}"
    assert (await abandon(stranger, job.job_id)).status_code == 403


async def test_job_and_instance_are_in_the_audit_trail_when_a_job_is_to_be_abandoned(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Not failed")
    await abandon(api, job.job_id)
    (entry, *_) = (await api.get("/v2/audit")).json()
    assert (entry["method"], entry["path"]) == ("POST", f"/v2/jobs/{job.job_id}/abandon")
    assert (entry["jobId"], entry["instanceId"]) == (job.job_id, job.instance_id)
    assert (entry["status"], entry["client"]) == (409, "a-client")
