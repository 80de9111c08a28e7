"""Requests to cancel a job: which are granted without a worker, and how each of the others is refused."""

import asyncio

import httpx
import pytest
from pydantic import SecretStr
from temporalio.client import Client

from ods.model.operations import Template
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import Job
from ods.settings.settings import Settings
from ods.temporal.client import data_converter
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import Tenant
from tests.api.service import NOBODY, bearer, client_of, running, tokens
from tests.postgres.instance_states import bring_to
from tests.servers import make_tenant_settings, session

BEFORE = "The job was cancelled before it began."
OTHER_KEY = "b3RoZXIga2V5IG9mIDMyIGJ5dGVzLCBmb3Igc3VyZSE="


async def cancel(api: httpx.AsyncClient, job_id: str) -> httpx.Response:
    return await api.post(f"/v2/jobs/{job_id}/cancel")


def assert_refused(answer: httpx.Response, state: str, detail: str) -> None:
    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem.pop("nextStep")
    assert problem == {
        "title": "The job's state does not allow this",
        "status": 409,
        "detail": detail,
        "state": state,
    }


@pytest.mark.parametrize(
    ("state", "status", "message"),
    [
        ("Pending", "Error", BEFORE),
        ("Pending_Rename", "Completed", None),
        ("Pending_Delete", "Completed", None),
    ],
)
async def test_waiting_job_is_cancelled_when_temporal_is_away(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    state: str,
    status: str,
    message: str | None,
) -> None:
    job = await bring_to(instances, job_store, state, "Waiting")
    answer = await cancel(api, job.job_id)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v2/jobs/{job.job_id}"
    assert answer.json() == (await api.get(f"/v2/jobs/{job.job_id}")).json()
    assert (answer.json()["status"], answer.json()["errorMessage"]) == ("Error", BEFORE)
    assert answer.json()["finishedAt"]
    instance = (await api.get(f"/v2/dbInstances/{job.instance_id}")).json()
    assert (instance["status"], instance["errorMessage"]) == (status, message)
    assert not (await job_store.begin(job)).held


async def test_session_of_an_earlier_attempt_is_ended_before_a_waiting_job_is_cancelled(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, tenant: Tenant
) -> None:
    failed = await bring_to(instances, job_store, "Delete_Failed", "Retried")
    retried = (await instances.request_retry(failed.instance_id)).job
    async with tenant.server.locked(retried.mark) as late:
        backend = late.get_server_pid()
        assert (await cancel(api, retried.job_id)).json()["status"] == "Error"
        async with tenant.server.session() as other:
            query = "SELECT 1 FROM pg_stat_activity WHERE pid = $1"
            assert not await other.fetchval(query, backend)


async def test_session_of_a_job_goes_on_when_it_has_begun_before_it_was_cancelled(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", "Beginning")
    find = JobCancellations.waiting_attempt

    async def find_and_begin(cancellations: JobCancellations, row: Job) -> InstanceJob | None:
        found = await find(cancellations, row)
        await job_store.begin(job)
        return found

    monkeypatch.setattr(JobCancellations, "waiting_attempt", find_and_begin)
    async with tenant.server.locked(job.mark) as at_work:
        assert (await cancel(api, job.job_id)).status_code == 503, "Temporal is away, and would be needed"
        await at_work.execute("SELECT 1")
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"] == "InProgress"


async def test_waiting_job_is_cancelled_when_the_server_is_away(
    settings: Settings, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", "Waiting")
    away = settings.model_copy(update={"master_dsn": SecretStr("postgresql://ods@127.0.0.1:1/postgres")})
    async with running(away, NOBODY) as app, client_of(app, headers=bearer(away)) as client:
        assert (await cancel(client, job.job_id)).json()["status"] == "Error"
    assert not (await job_store.begin(job)).held


async def test_retried_job_is_cancelled_when_it_waits_for_its_next_attempt(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error", "Failing")
    due = (await instances.request_retry(job.instance_id)).job
    assert (await cancel(api, job.job_id)).json()["status"] == "Error"
    assert not (await job_store.begin(due)).held
    again = (await api.post(f"/v2/dbInstances/{job.instance_id}/retry")).json()
    assert (again["jobId"], again["status"]) == (job.job_id, "Pending")
    assert (await job_store.begin((await job_store.waiting_jobs(0, 1))[0])).held


async def test_instance_is_not_completed_when_its_delete_is_cancelled_and_nothing_routes_to_it(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    failed = await bring_to(instances, job_store, "Delete_Failed", "Half gone")
    retried = (await instances.request_retry(failed.instance_id)).job
    never_made = await bring_to(instances, job_store, "Error", "Never made")
    deletion = (await instances.request_delete(never_made.instance_id)).job
    for job in (retried, deletion):
        assert (await cancel(api, job.job_id)).status_code == 202
        instance = (await api.get(f"/v2/dbInstances/{job.instance_id}")).json()
        assert (instance["status"], instance["errorMessage"]) == ("Delete_Failed", BEFORE)
        assert (await api.delete(f"/v2/dbInstances/{job.instance_id}")).status_code == 202


async def test_instance_works_under_its_name_when_its_rename_is_cancelled_before_it_begins(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    before = await bring_to(instances, job_store, "Completed", "Staying")
    path = f"/v2/dbInstances/{before.instance_id}"
    as_it_was = (await api.get(path)).json()
    for _ in range(2):
        rename = (await instances.request_rename(before.instance_id, "Going")).job
        assert (await cancel(api, rename.job_id)).json()["errorMessage"] == BEFORE
        assert not (await job_store.begin(rename)).held
        now = (await api.get(path)).json()
        names = ("name", "status", "databaseName", "errorMessage")
        assert [now[name] for name in names] == [as_it_was[name] for name in names]
        assert (await api.post(f"{path}/retry")).status_code == 409, "nothing has failed"
    await instances.reserve("Going", Template.MINIMAL)  # the name is free again
    deletion = (await instances.request_delete(before.instance_id)).job
    assert deletion.databases == [before.database, deletion.trash_database]


@pytest.mark.parametrize("next_job", ["retried", "renamed", "renamed, cancelled and renamed"])
async def test_instance_is_not_completed_when_its_rename_is_cancelled_after_one_that_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, next_job: str
) -> None:
    failed = await bring_to(instances, job_store, "Error_Rename", "Renamed in vain")
    if next_job == "retried":
        await instances.request_retry(failed.instance_id)
    for name in ("Another", "A third")[: next_job.count("renamed")]:
        failed = (await instances.request_rename(failed.instance_id, name)).job
        assert (await cancel(api, failed.job_id)).status_code == 202
    if next_job == "retried":
        assert (await cancel(api, failed.job_id)).status_code == 202
    instance = (await api.get(f"/v2/dbInstances/{failed.instance_id}")).json()
    assert (instance["status"], instance["errorMessage"]) == ("Error", BEFORE), "it may have the new name"


async def test_instance_is_completed_only_once_a_failed_rename_is_undone_when_its_delete_is_cancelled(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, registry_dsn: str
) -> None:
    failed = await bring_to(instances, job_store, "Error_Rename", "Renamed in vain")
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.dbinstances SET undodue = true")
    deletion = (await instances.request_delete(failed.instance_id)).job
    assert (await cancel(api, deletion.job_id)).status_code == 202
    instance = (await api.get(f"/v2/dbInstances/{failed.instance_id}")).json()
    assert instance["status"] == "Delete_Failed", "its database may still have the new name"
    (undone,) = await job_store.jobs_to_undo()
    await job_store.end_undo(undone)
    instance = (await api.get(f"/v2/dbInstances/{failed.instance_id}")).json()
    assert (instance["status"], instance["name"]) == ("Completed", "Renamed in vain")


@pytest.mark.parametrize("state", ["InProgress", "InProgress_Delete", "InProgress_Rename"])
async def test_running_job_goes_on_when_it_is_cancelled_while_temporal_is_away(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, tenant: Tenant, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Running")
    answer = await cancel(api, job.job_id)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "Temporal cannot be reached"
    assert "when Temporal is back" in answer.json()["detail"]
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"] == "InProgress"
    assert await tenant.cancellations.is_cancelled(job), "it is not done again if its workflow is lost"
    assert await job_store.release(job) is None


@pytest.mark.parametrize("state", ["Completed", "Error", "Deleted", "Delete_Failed", "Error_Rename"])
async def test_state_and_next_step_are_told_when_the_job_has_ended(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Ended")
    before = (await api.get(f"/v2/jobs/{job.job_id}")).json()
    reason = f"A job in state {before['status']} cannot be cancelled: it has ended."
    assert_refused(await cancel(api, job.job_id), before["status"], reason)
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json() == before


async def test_job_that_runs_is_left_alone_when_the_one_before_it_is_cancelled(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    deletion = await bring_to(instances, job_store, "Pending_Delete", "Going")
    create = f"CreateInstanceJob-{deletion.ods_instance_id}-1"
    assert (await cancel(api, create)).status_code == 409
    assert (await api.get(f"/v2/dbInstances/{deletion.instance_id}")).json()["status"] == "Pending_Delete"


async def test_job_is_refused_when_another_product_has_started_it(
    api: httpx.AsyncClient, registry_dsn: str
) -> None:
    async with session(registry_dsn) as rows:
        await rows.execute(
            "INSERT INTO adminapi.jobstatuses (jobid, status, createdat) VALUES ('theirs', 'Queued', now())"
        )
    assert_refused(await cancel(api, "theirs"), "Queued", "The job is another product's.")


@pytest.mark.parametrize(
    "restored",
    [
        "UPDATE adminapi.dbinstances SET jobnumber = 9",
        "UPDATE adminapi.dbinstances SET state = 'Completed'",
    ],
)
@pytest.mark.parametrize("state", ["Pending", "InProgress"])
async def test_nothing_is_cancelled_when_the_instance_is_at_another_job(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    registry_dsn: str,
    state: str,
    restored: str,
) -> None:
    job = await bring_to(instances, job_store, state, "Restored")
    async with session(registry_dsn) as rows:
        await rows.execute(restored)
    detail = "The instance, or the workflow under its id, is at another job."
    assert_refused(await cancel(api, job.job_id), state, detail)
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"] == state


@pytest.mark.parametrize("job", ["CreateInstanceJob-1-1", "x", "%00", "%ED%A0%80", "x" * 5000])
async def test_job_is_not_found_when_no_job_with_the_id_can_be_cancelled(
    idle_api: httpx.AsyncClient, job: str
) -> None:
    answer = await cancel(idle_api, job)
    assert answer.status_code == 404
    assert answer.json()["title"].startswith("Not found: job with ID ")


async def test_job_goes_on_when_the_client_may_only_read_or_has_no_token(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, settings: Settings, instances: InstanceStore
) -> None:
    job = (await instances.reserve("Waiting", Template.MINIMAL)).job
    reading = tokens(settings).issue("a-client", "edfi_admin_api/readonly_access")
    headers = {"Authorization": f"Bearer {reading}"}
    assert (await stranger.get("/v2/jobs", headers=headers)).status_code == 200
    forbidden = await stranger.post(f"/v2/jobs/{job.job_id}/cancel", headers=headers)
    assert (forbidden.status_code, forbidden.content) == (403, b"")
    assert (await cancel(stranger, job.job_id)).status_code == 401
    assert (await stranger.get("/v2/jobs")).status_code == 401
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"] == "Pending"


async def test_jobs_are_those_of_the_tenant_when_there_are_several(
    settings: Settings, second_registry_dsn: str, instances: InstanceStore
) -> None:
    job = (await instances.reserve("Waiting", Template.MINIMAL)).job
    second = settings.model_copy(update={"admin_dsn": SecretStr(second_registry_dsn)})
    several = make_tenant_settings({"first": settings, "second": second})
    async with running(several, NOBODY) as app, client_of(app) as client:
        for tenant, listed, status in (("second", [], 404), ("first", [job.job_id], 202)):
            client.headers.update({"tenant": tenant, **bearer(several, tenant=tenant)})
            assert [one["jobId"] for one in (await client.get("/v2/jobs")).json()] == listed
            assert (await cancel(client, job.job_id)).status_code == status


async def test_job_and_instance_are_in_the_audit_trail_when_a_cancellation_is_granted_or_refused(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    job = (await instances.reserve("Waiting", Template.MINIMAL)).job
    for _ in range(2):
        await cancel(api, job.job_id)
    refused, granted = (await api.get("/v2/audit")).json()
    for entry, status, title in (
        (granted, 202, None),
        (refused, 409, "The job's state does not allow this"),
    ):
        assert (entry["method"], entry["path"]) == ("POST", f"/v2/jobs/{job.job_id}/cancel")
        assert (entry["jobId"], entry["instanceId"]) == (job.job_id, job.instance_id)
        assert (entry["status"], entry["title"], entry["client"]) == (status, title, "a-client")


async def test_nothing_is_cancelled_when_the_registry_is_an_unconfirmed_copy(
    api: httpx.AsyncClient, instances: InstanceStore, registry_dsn: str
) -> None:
    job = (await instances.reserve("Waiting", Template.MINIMAL)).job
    async with session(registry_dsn) as rows:
        before = await rows.fetchval("SELECT registrydatabase FROM adminapi.installation")
        await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
        try:
            answer = await cancel(api, job.job_id)
        finally:
            await rows.execute("UPDATE adminapi.installation SET registrydatabase = $1", before)
    assert answer.status_code == 503
    assert answer.json()["title"] == "The installation must be confirmed by its operator"
    assert (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"] == "Pending"


async def test_refresh_is_cancelled_when_it_waits_and_only_that(
    api: httpx.AsyncClient, tenant: Tenant
) -> None:
    waiting, other = [await tenant.refreshes.request(Scope(number)) for number in (7, 8)]
    assert (await cancel(api, waiting)).json()["status"] == "Error"
    assert_refused(
        await cancel(api, waiting), "Error", "A job in state Error cannot be cancelled: it has ended."
    )
    assert (await api.get(f"/v2/jobs/{other}")).json()["status"] == "Pending"
    await tenant.refreshes.begin(Scope(8))
    assert (await cancel(api, other)).status_code == 503


async def test_keys_are_asked_for_when_the_api_cannot_read_the_workflow(
    settings: Settings, temporal: Client, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "InProgress", "Encrypted")
    encrypting = settings.model_copy(update={"payload_key": SecretStr(OTHER_KEY)})
    address = temporal.service_client.config.target_host
    other = await Client.connect(address, data_converter=data_converter(encrypting))
    await JobStarter(other, settings.registry_queue).start(job)
    answers = []
    for own in (settings, encrypting):
        async with running(own, address) as app, client_of(app, headers=bearer(own)) as client:
            answers.append(await cancel(client, job.job_id))
    refused, granted = answers
    assert refused.status_code == 503
    assert "ODS_PAYLOAD_KEY" in refused.json()["detail"]
    assert granted.status_code == 202
    assert granted.json()["status"] == "InProgress", "a worker has to act on it"
    history = await other.get_workflow_handle(job.workflow_id).fetch_history()
    assert [
        event.workflow_execution_cancel_requested_event_attributes.cause
        for event in history.events
        if event.HasField("workflow_execution_cancel_requested_event_attributes")
    ] == [f"A client of the API has cancelled {job.job_id}."]


async def test_one_of_beginning_and_cancelling_wins_when_both_happen_at_once(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    for number in range(20):
        job = (await instances.reserve(f"Racing {number}", Template.MINIMAL)).job
        answer, begun = await asyncio.gather(cancel(api, job.job_id), job_store.begin(job))
        status = (await api.get(f"/v2/jobs/{job.job_id}")).json()["status"]
        assert (answer.status_code, begun.held, status) in {
            (202, False, "Error"),
            (503, True, "InProgress"),  # Temporal is away, and would be needed
        }
