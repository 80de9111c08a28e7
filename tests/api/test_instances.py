import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.embedded.polling import wait_until
from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore, Requested
from ods.settings.settings import Settings, Trigger
from ods.temporal.namespace import register_search_attributes
from tests.api.service import bearer, client_of, is_started, running
from tests.servers import development_server, session

INSTANCES = "/v2/dbInstances"
JSON = {"Content-Type": "application/json"}
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


def body(name: object = "A name", template: object = "Minimal") -> dict[str, object]:
    return {"name": name, "databaseTemplate": template}


async def begun(instances: InstanceStore, job_store: JobStore, name: str) -> Requested:
    requested = await instances.reserve(name, Template.MINIMAL)
    await job_store.begin(requested.job)
    return requested


async def completed(instances: InstanceStore, job_store: JobStore, name: str) -> Requested:
    requested = await begun(instances, job_store, name)
    await job_store.finish_create(replace(requested.job, template_generation=3), "encrypted")
    return requested


async def failed(instances: InstanceStore, job_store: JobStore, name: str) -> Requested:
    requested = await begun(instances, job_store, name)
    await job_store.fail(requested.job, "The template is missing.")
    return requested


async def test_request_is_accepted_and_committed_when_it_is_valid(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(INSTANCES, json=body("  My DB Instance "))

    (row,) = await rows.fetch("SELECT * FROM adminapi.dbinstances")
    job = f"CreateInstanceJob-{row['odsinstanceid']}-1"
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{INSTANCES}/{row['id']}"
    assert answer.json() == {
        "id": row["id"],
        "name": "My DB Instance",
        "odsInstanceId": row["odsinstanceid"],
        "status": "Pending",
        "jobId": job,
        "location": f"/v2/jobs/{job}",
        "copyOf": None,
        "mode": None,
        "notice": None,
    }
    assert (row["name"], row["databasename"]) == ("My DB Instance", "EdFi_Ods_My_DB_Instance_Minimal")
    assert (await api.get(answer.json()["location"])).json()["status"] == "Pending"


async def test_workflow_is_open_under_the_ods_instance_id_when_the_request_is_answered(
    api_with_temporal: httpx.AsyncClient, temporal: Client
) -> None:
    accepted = (await api_with_temporal.post(INSTANCES, json=body())).json()

    description = await temporal.get_workflow_handle(str(accepted["odsInstanceId"])).describe()
    assert description.workflow_type == "CreateInstance"


async def test_no_workflow_is_started_when_only_the_sweep_shall_start_jobs(
    settings: Settings, temporal: Client
) -> None:
    scheduled = settings.model_copy(update={"trigger": Trigger.SCHEDULED})
    async with (
        running(scheduled, temporal.service_client.config.target_host) as app,
        client_of(app, headers=bearer(scheduled)) as api,
    ):
        answer = await api.post(INSTANCES, json=body())

    assert answer.status_code == 202
    with pytest.raises(RPCError) as refusal:
        await temporal.get_workflow_handle(str(answer.json()["odsInstanceId"])).describe()
    assert refusal.value.status is RPCStatusCode.NOT_FOUND


@pytest.mark.usefixtures("workers")
async def test_instance_lives_and_goes_when_it_is_created_and_deleted(
    api_with_temporal: httpx.AsyncClient, name: str
) -> None:
    api = api_with_temporal
    created = (await api.post(INSTANCES, json=body(name))).json()
    await _finished(api, created["location"])
    instance = (await api.get(f"{INSTANCES}/{created['id']}")).json()
    ods_instance = await api.get(f"/v2/odsInstances/{created['odsInstanceId']}")
    deleted = (await api.delete(f"{INSTANCES}/{created['id']}")).json()
    await _finished(api, deleted["location"])

    assert (instance["status"], instance["odsInstanceName"]) == ("Completed", name)
    assert ods_instance.json()["name"] == name
    assert deleted["jobId"] == f"DeleteInstanceJob-{created['odsInstanceId']}-2"
    assert (await api.get(f"{INSTANCES}/{created['id']}")).status_code == 404
    ((listed),) = (await api.get(INSTANCES, params={"id": created["id"]})).json()
    assert listed["status"] == "Deleted"


async def _finished(api: httpx.AsyncClient, job: str) -> None:
    async def is_finished() -> bool:
        status = (await api.get(job)).json()["status"]
        assert status != "Error"
        return bool(status == "Completed")

    await wait_until(is_finished, 20)


async def test_row_is_pending_when_temporal_refuses_connections(
    api: httpx.AsyncClient, rows: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await api.post(INSTANCES, json=body())

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "api.job_dispatcher"]

    async def is_told() -> bool:
        return bool(lines())

    await wait_until(is_told, 3)
    assert answer.status_code == 202
    assert await rows.fetchval("SELECT status FROM adminapi.dbinstances") == "Pending"
    (line,) = lines()
    assert line.startswith(f"{answer.json()['jobId']} waits for the next sweep: RuntimeError at ")


@pytest.mark.timed
async def test_row_is_pending_when_temporal_accepts_connections_and_says_nothing(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with running(settings, address) as app, client_of(app, headers=bearer(settings)) as api:
            started = time.monotonic()
            answers = await asyncio.gather(*(api.post(INSTANCES, json=body(f"N{n}")) for n in range(5)))
            elapsed = time.monotonic() - started

    assert [answer.status_code for answer in answers] == [202] * 5
    assert elapsed < 1  # the client does not wait for Temporal to time out


@pytest.mark.timed
async def test_row_is_pending_when_temporal_goes_away_after_it_was_reached(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        temporary = await server.enter_async_context(development_server())
        await register_search_attributes(temporary)
        address = temporary.service_client.config.target_host
        app = await stack.enter_async_context(running(settings, address))
        api = await stack.enter_async_context(client_of(app, headers=bearer(settings)))
        reached = (await api.post(INSTANCES, json=body("Reached"))).json()
        workflow = temporary.get_workflow_handle(str(reached["odsInstanceId"]))
        await wait_until(partial(is_started, workflow), 3)
        await server.aclose()
        started = time.monotonic()
        answer = await api.post(INSTANCES, json=body("Not reached"))

        assert time.monotonic() - started < 1
        assert (answer.status_code, answer.json()["status"]) == (202, "Pending")


async def test_exactly_one_request_is_accepted_when_many_ask_for_one_name_at_once(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(api.post(INSTANCES, json=body("Same")) for _ in range(8)))

    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(refused) == 7
    for answer in refused:
        assert answer.status_code == 400
        assert "already exists" in answer.json()["errors"]["Name"][0]
    assert await rows.fetchval("SELECT count(*) FROM adminapi.dbinstances") == 1


async def test_request_is_refused_when_another_name_leads_to_the_same_database(
    api: httpx.AsyncClient,
) -> None:
    await api.post(INSTANCES, json=body("a b"))
    answer = await api.post(INSTANCES, json=body("a_b"))

    assert answer.status_code == 400
    assert "EdFi_Ods_a_b_Minimal" in answer.json()["errors"]["Name"][0]


async def test_request_is_refused_when_an_ods_instance_has_the_name(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ('By hand')")
    answer = await api.post(INSTANCES, json=body("By hand"))

    assert answer.status_code == 400
    assert "already exists" in answer.json()["errors"]["Name"][0]


EMPTY = "'Name' must not be empty."
CHARACTERS = "'Name' must contain only letters, numbers, spaces and underscores."
NO_TEMPLATE = "'Database Template' must not be empty."
TEMPLATES = "'Database Template' must be 'Minimal' or 'Sample'."


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        ({}, {"Name": [EMPTY], "DatabaseTemplate": [NO_TEMPLATE, TEMPLATES]}),
        (None, {"Name": [EMPTY], "DatabaseTemplate": [NO_TEMPLATE, TEMPLATES]}),
        (body(None, None), {"Name": [EMPTY], "DatabaseTemplate": [NO_TEMPLATE, TEMPLATES]}),
        (body("  ", "  "), {"Name": [EMPTY], "DatabaseTemplate": [NO_TEMPLATE, TEMPLATES]}),
        (body(5, 5), {"Name": ["'Name' must be text."], "DatabaseTemplate": [TEMPLATES]}),
        (body(["x"], {"x": []}), {"Name": ["'Name' must be text."], "DatabaseTemplate": [TEMPLATES]}),
        (body("ok", "minimal"), {"DatabaseTemplate": [TEMPLATES]}),
        (body("no-hyphen"), {"Name": [CHARACTERS]}),
        (body("nul\x00"), {"Name": [CHARACTERS]}),
        (body("surrogate\ud800", "\ud800"), {"Name": [CHARACTERS], "DatabaseTemplate": [TEMPLATES]}),
        (
            body("ü" * 47),
            {"Name": ["'Name' must be 46 characters or fewer. You entered 47 characters.", CHARACTERS]},
        ),
        (
            body(" " + "x" * 46),
            {"Name": ["'Name' must be 46 characters or fewer. You entered 47 characters."]},
        ),
    ],
)
async def test_all_faults_are_reported_together_when_a_request_breaks_rules(
    idle_api: httpx.AsyncClient, sent: object, errors: dict[str, list[str]]
) -> None:
    answer = await idle_api.post(INSTANCES, content=json.dumps(sent), headers=JSON)

    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {"title": "Validation failed", "status": 400, "errors": errors}


async def test_faults_are_reported_when_there_is_no_body(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.post(INSTANCES)

    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {"Name", "DatabaseTemplate"}


async def test_all_members_are_written_out_when_an_instance_is_pending(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    requested = await instances.reserve("Shown", Template.SAMPLE)
    instance = (await api.get(f"{INSTANCES}/{requested.instance.id}")).json()

    assert UTC_TIME.fullmatch(instance.pop("lastRefreshed"))
    assert UTC_TIME.fullmatch(instance.pop("lastModifiedDate"))
    assert 0 <= instance["progress"].pop("elapsedSeconds") < 10
    assert instance == {
        "id": requested.instance.id,
        "name": "Shown",
        "odsInstanceId": requested.job.ods_instance_id,
        "odsInstanceName": None,
        "status": "Pending",
        "databaseTemplate": "Sample",
        "databaseName": "EdFi_Ods_Shown_Sample",
        "operation": "Create",
        "newName": None,
        "jobId": requested.job.job_id,
        "errorMessage": None,
        "templateGeneration": None,
        "copyOf": None,
        "mode": None,
        "backupId": None,
        "protected": False,
        "description": None,
        "labels": {},
        "contexts": [],
        "deleteDropsDatabase": False,
        "retryDropsDatabase": False,
        "waiting": None,
        "progress": {"phase": "waiting for a worker", "estimatedSeconds": None},
        "links": {"job": f"/v2/jobs/{requested.job.job_id}", "workflow": None},
    }


async def test_generation_of_its_template_is_shown_when_an_instance_is_completed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await completed(instances, job_store, "Of a generation")
    instance = (await api.get(f"{INSTANCES}/{requested.instance.id}")).json()
    assert (instance["status"], instance["templateGeneration"]) == ("Completed", 3)


async def test_workflow_page_is_linked_when_the_address_of_the_web_ui_is_known(
    settings: Settings, temporal_address: str, instances: InstanceStore
) -> None:
    requested = await instances.reserve("Linked", Template.MINIMAL)
    shown = settings.model_copy(update={"temporal_ui_url": "https://ui.example/"})
    async with running(shown, temporal_address) as app, client_of(app, headers=bearer(shown)) as api:
        instance = (await api.get(f"{INSTANCES}/{requested.instance.id}")).json()

    page = f"https://ui.example/namespaces/default/workflows/{requested.job.ods_instance_id}"
    assert instance["links"]["workflow"] == page


async def test_estimate_is_shown_when_such_a_job_was_done_before(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    await completed(instances, job_store, "Before")
    await rows.execute("UPDATE adminapi.jobstatuses SET startedat = finishedat - interval '1.5 s'")
    running_create = await begun(instances, job_store, "Now")
    running_delete = await completed(instances, job_store, "Going")
    delete = await instances.request_delete(running_delete.instance.id)
    await job_store.begin(delete.job)

    create, delete_ = [
        (await api.get(f"{INSTANCES}/{requested.instance.id}")).json()["progress"]
        for requested in (running_create, running_delete)
    ]
    assert (create["phase"], delete_["phase"]) == (
        "cloning the template",
        "moving the database to the trash",
    )
    assert 0 < create["estimatedSeconds"] <= 1.5
    assert delete_["estimatedSeconds"] is None


async def test_progress_is_null_and_the_reason_is_told_when_a_job_has_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await failed(instances, job_store, "Failed")
    instance = (await api.get(f"{INSTANCES}/{requested.instance.id}")).json()

    assert instance["status"] == "Error"
    assert instance["errorMessage"] == "The template is missing."
    assert instance["progress"] is None


async def test_page_is_as_large_as_asked_when_there_are_very_many_rows(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.dbinstances"
        " (name, odsinstanceid, status, databasetemplate, databasename, operation, jobnumber)"
        " SELECT 'n' || n, n, 'Pending', 'Minimal', 'd' || n, 'Create', 1 FROM generate_series(1, 33000) n"
    )
    page = (await api.get(INSTANCES, params={"limit": 10_000})).json()
    last = (await api.get(INSTANCES, params={"limit": 10_000, "offset": 30_000})).json()

    assert [instance["name"] for instance in page[:3]] == ["n1", "n2", "n3"]
    assert (len(page), len(last)) == (10_000, 3_000)


async def test_pages_follow_each_other_by_id_when_offset_and_limit_say_so(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    names = [f"Page {number}" for number in range(30)]
    for name in names:
        await instances.reserve(name, Template.MINIMAL)

    async def page(**query: Any) -> list[str]:
        return [row["name"] for row in (await api.get(INSTANCES, params=query)).json()]

    assert await page() == names[:25]
    assert await page(offset=25) == names[25:]
    assert await page(offset=3, limit=2) == names[3:5]
    assert await page(limit=0) == []


async def test_only_exact_matches_are_listed_when_filters_are_given(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    requested = await instances.reserve("Wanted", Template.MINIMAL)
    await instances.reserve("Wanted too", Template.MINIMAL)
    number = requested.instance.id

    async def ids(**query: Any) -> list[int]:
        return [row["id"] for row in (await api.get(INSTANCES, params=query)).json()]

    assert await ids(name="Wanted") == [number]
    assert await ids(id=number) == [number]
    assert await ids(id=number, name="Wanted too") == []
    assert await ids(name="wanted") == []
    assert await ids(name="Wanted\x00") == []


@pytest.mark.parametrize("parameter", ["offset", "limit", "id"])
@pytest.mark.parametrize("value", ["-1", "x", "1.5", "2147483648", "9" * 5000, "\x00", ""])
async def test_list_is_refused_when_a_number_is_impossible(
    idle_api: httpx.AsyncClient, parameter: str, value: str
) -> None:
    answer = await idle_api.get(INSTANCES, params={parameter: value})

    assert answer.status_code == 400
    assert answer.json()["title"] == "Validation failed"
    (message,) = answer.json()["errors"][parameter.title()]
    assert message.startswith(f"'{parameter.title()}' must be")


@pytest.mark.parametrize("number", ["1", "0", "-1", "x", "1.5", "2147483648", "9" * 5000, "%00", "%ED%A0%80"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/retry")])
async def test_instance_is_not_found_when_no_live_one_has_the_id(
    idle_api: httpx.AsyncClient, method: str, suffix: str, number: str
) -> None:
    answer = await idle_api.request(method, f"{INSTANCES}/{number}{suffix}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: dbInstance with ID ")
    assert answer.json()["status"] == 404


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/retry")])
async def test_instance_is_not_found_when_it_is_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, method: str, suffix: str
) -> None:
    requested = await completed(instances, job_store, "Gone")
    delete = await instances.request_delete(requested.instance.id)
    await job_store.begin(delete.job)
    await job_store.finish_delete(delete.job)

    answer = await api.request(method, f"{INSTANCES}/{requested.instance.id}{suffix}")
    assert answer.status_code == 404


@pytest.mark.parametrize("reach", [completed, failed])
async def test_delete_is_accepted_when_no_job_is_under_way(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    reach: Callable[[InstanceStore, JobStore, str], Awaitable[Requested]],
) -> None:
    requested = await reach(instances, job_store, "Leaving")
    answer = await api.delete(f"{INSTANCES}/{requested.instance.id}")

    job = f"DeleteInstanceJob-{requested.job.ods_instance_id}-2"
    assert answer.status_code == 202
    purge_after = answer.json()["purgeAfter"]  # what never had a database has nothing to come back
    assert (purge_after is None) is (reach is failed)
    assert answer.json() == {
        "id": requested.instance.id,
        "name": "Leaving",
        "odsInstanceId": requested.job.ods_instance_id,
        "status": "Pending_Delete",
        "jobId": job,
        "location": f"/v2/jobs/{job}",
        "databaseName": "EdFi_Ods_Leaving_Minimal",
        "purgeAfter": purge_after,
        "purgeJobId": None,
        "backupId": None,
    }


async def test_delete_is_refused_with_state_and_next_step_when_a_job_is_under_way(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await begun(instances, job_store, "Busy")
    answer = await api.delete(f"{INSTANCES}/{requested.instance.id}")

    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "title": "The instance's state does not allow this",
        "status": 409,
        "detail": "An instance in state InProgress cannot be deleted.",
        "state": "InProgress",
        "nextStep": "A job is running; ask again when it has ended.",
    }


async def test_delete_for_good_is_refused_when_a_context_refers_to_the_ods_instance(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    requested = await completed(instances, job_store, "In use")
    await rows.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'year', '2026')",
        requested.job.ods_instance_id,
    )
    for way in ("purge", "detach"):
        answer = await api.delete(f"{INSTANCES}/{requested.instance.id}?{way}=true")
        assert answer.status_code == 409
        assert answer.json()["state"] == "Completed"
        assert "OdsInstanceContexts" in answer.json()["detail"]


async def test_delete_drops_at_once_and_is_refused_as_before_when_there_is_no_trash(
    settings: Settings,
    temporal_address: str,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
) -> None:
    requested = await completed(instances, job_store, "For good")
    without = settings.model_copy(update={"trash_days": 0})
    path = f"{INSTANCES}/{requested.instance.id}"
    async with running(without, temporal_address) as app, client_of(app, headers=bearer(without)) as api:
        context = await rows.fetchval(
            "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
            " VALUES ($1, 'year', '2026') RETURNING odsinstancecontextid",
            requested.job.ods_instance_id,
        )
        assert (await api.delete(path)).status_code == 409
        assert (await api.delete(f"/v2/odsInstanceContexts/{context}")).status_code == 200
        assert (await api.get(path)).json()["deleteDropsDatabase"] is True
        planned = [
            await api.post(f"{path}/reset?dryRun=true", json={}),
            await api.delete(f"{path}?dryRun=true"),
        ]
        assert [plan.json()["instances"][0]["dropsDatabase"] for plan in planned] == [True, True]
        answer = await api.delete(path)
    assert (answer.status_code, answer.json()["purgeAfter"]) == (202, None)
    drops = (
        "SELECT operation = 'Delete' AND arguments = '{\"keep\": false, \"backup_first\": false}'"
        " FROM adminapi.dbinstances WHERE id = $1"
    )
    assert await rows.fetchval(drops, requested.instance.id)


async def test_undelete_is_not_found_and_its_name_is_judged_when_it_is_requested(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    assert (await api.post(f"{INSTANCES}/2147483647/undelete")).status_code == 404
    requested = await completed(instances, job_store, "Coming back")
    path = f"{INSTANCES}/{requested.instance.id}"
    assert (await api.post(f"{path}/undelete")).json()["state"] == "Completed"
    both = await api.delete(f"{path}?purge=true&detach=true")
    assert (both.status_code, list(both.json()["errors"])) == (400, ["Detach"])
    delete = await instances.request_delete(requested.instance.id)
    await job_store.begin(delete.job)
    await job_store.finish_delete(delete.job)
    refused = await api.post(f"{path}/undelete", json={"name": "no; name"})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["Name"])
    detach = await api.delete(f"{path}?detach=true")
    assert (detach.status_code, detach.json()["nextStep"]) == (
        409,
        "Undelete it, then detach its database.",
    )


async def test_retry_is_accepted_when_the_job_has_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await failed(instances, job_store, "Again")
    answer = await api.post(f"{INSTANCES}/{requested.instance.id}/retry")

    assert answer.status_code == 202
    assert answer.json()["jobId"] == requested.job.job_id
    assert answer.json()["status"] == "Pending"


async def test_retry_is_refused_when_nothing_has_failed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    requested = await completed(instances, job_store, "Fine")
    answer = await api.post(f"{INSTANCES}/{requested.instance.id}/retry")

    assert answer.status_code == 409
    assert answer.json()["state"] == "Completed"
    assert answer.json()["nextStep"]
