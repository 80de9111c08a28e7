"""Renaming an instance through either surface."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from tests.postgres.instance_states import bring_to, let_time_pass
from tests.servers import session

INSTANCES = "/v2/dbInstances"
MANAGE = "/v2/odsInstances/manage"
SURFACES = (INSTANCES, MANAGE)
EMPTY = "'Name' must not be empty."
TEMPLATES = "'Database Template' must be 'Minimal' or 'Sample'."


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.mark.usefixtures("workers")
async def test_instance_database_and_ods_instance_have_the_new_name_when_it_is_renamed(
    api_with_temporal: httpx.AsyncClient, temporal: Client, admin: asyncpg.Connection, name: str
) -> None:
    api = api_with_temporal
    created = (await api.post(INSTANCES, json={"name": name, "databaseTemplate": "Minimal"})).json()
    await _finished(api, created["location"])
    renamed = await api.put(f"{INSTANCES}/{created['id']}", json={"name": f" {name} B "})
    assert renamed.status_code == 202
    await _finished(api, renamed.json()["location"])

    instance = (await api.get(f"{INSTANCES}/{created['id']}")).json()
    assert (instance["status"], instance["operation"], instance["newName"]) == ("Completed", "Rename", None)
    assert instance["name"] == instance["odsInstanceName"] == f"{name} B"
    assert instance["databaseName"] == f"EdFi_Ods_{name} B_Minimal".replace(" ", "_")
    ods_instance = (await api.get(f"/v2/odsInstances/{created['odsInstanceId']}")).json()
    assert (ods_instance["name"], ods_instance["instanceType"]) == (f"{name} B", "Minimal")
    named = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1"
    found = await admin.fetch(named, f'%"odsInstanceId": {created["odsInstanceId"]},%')
    assert [row["datname"] for row in found] == [instance["databaseName"]]
    described = await temporal.get_workflow_handle(str(created["odsInstanceId"])).describe()
    assert described.workflow_type == "RenameInstance"
    assert await described.static_summary() == f"Rename instance {name} to {name} B"


async def _finished(api: httpx.AsyncClient, job: str) -> None:
    async def is_finished() -> bool:
        told = (await api.get(job)).json()
        assert told["status"] != "Error", told
        return bool(told["status"] == "Completed")

    await wait_until(is_finished, 20)


async def test_rename_is_accepted_with_its_job_when_the_instance_is_completed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Before")
    answer = await api.put(
        f"{INSTANCES}/{job.instance_id}", json={"NAME": "After", "databasetemplate": "Minimal"}
    )

    rename = f"RenameInstanceJob-{job.ods_instance_id}-2"
    assert answer.status_code == 202
    assert answer.json() == {
        "id": job.instance_id,
        "name": "Before",
        "odsInstanceId": job.ods_instance_id,
        "status": "Pending",
        "jobId": rename,
        "location": f"/v2/jobs/{rename}",
    }
    instance = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()
    assert (instance["name"], instance["newName"]) == ("Before", "After")
    assert instance["progress"]["phase"] == "waiting for a worker"
    refused = await api.put(f"{INSTANCES}/{job.instance_id}", json={"name": "Other"})
    assert (refused.status_code, refused.json()["state"]) == (409, "Pending")
    assert refused.json()["detail"] == "An instance in state Pending cannot be renamed."
    assert refused.json()["nextStep"]


@pytest.mark.parametrize("state", ["Pending_Rename", "InProgress_Rename", "Completed_Rename", "Error_Rename"])
async def test_instance_is_created_in_the_words_of_manage_when_it_is_renamed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Before")
    shown = (await api.get(f"{MANAGE}/{job.instance_id}")).json()

    assert (shown["status"], shown["odsInstanceId"]) == ("Created", job.ods_instance_id)
    same = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()
    assert same["errorMessage"] == ("It could not be renamed." if state == "Error_Rename" else None)


async def test_rename_is_accepted_and_refused_as_that_surface_does_it_when_it_is_asked_of_manage(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Before")
    answer = await api.put(f"{MANAGE}/{job.instance_id}", json={"name": "After"})
    again = await api.put(f"{MANAGE}/{job.instance_id}", json={"name": "Other"})

    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["status"], shown["name"]) == ("Created", "Before")
    assert (await api.get(f"{INSTANCES}/{job.instance_id}")).json()["newName"] == "After"
    assert again.status_code == 400
    assert "cannot be renamed" in again.json()["errors"]["id"][0]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        ({}, {"Name": [EMPTY]}),
        ({"name": " ", "databaseTemplate": "minimal"}, {"Name": [EMPTY], "DatabaseTemplate": [TEMPLATES]}),
        ({"name": 5}, {"Name": ["'Name' must be text."]}),
        (
            {"name": "A", "databaseTemplate": ""},
            {"DatabaseTemplate": ["'Database Template' must not be empty.", TEMPLATES]},
        ),
        (
            {"name": "A", "databaseTemplate": "Sample"},
            {
                "DatabaseTemplate": [
                    "'Database Template' cannot be changed: this instance was made from 'Minimal'."
                ]
            },
        ),
    ],
)
async def test_all_faults_are_reported_together_when_a_rename_breaks_rules(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    surface: str,
    sent: dict[str, Any],
    errors: dict[str, Any],
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Before")
    answer = await api.put(f"{surface}/{job.instance_id}", json=sent)

    assert answer.status_code == 400
    assert answer.json()["errors"] == errors


@pytest.mark.parametrize("surface", SURFACES)
async def test_name_is_refused_when_another_instance_or_ods_instance_has_it(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    surface: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Before")
    await bring_to(instances, job_store, "Pending", "Other")
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ('By hand')")
    for occupied in ("Other", "By hand"):
        answer = await api.put(f"{surface}/{job.instance_id}", json={"name": occupied})
        assert answer.status_code == 400
        assert "already exists" in answer.json()["errors"]["Name"][0]


@pytest.mark.parametrize("surface", SURFACES)
async def test_name_is_refused_until_no_cache_has_it_when_a_rename_has_left_it(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    surface: str,
) -> None:
    await bring_to(instances, job_store, "Completed_Rename", "Before")
    other = await bring_to(instances, job_store, "Completed", "Other")
    requests = (
        ("POST", surface, {"name": "Before", "databaseTemplate": "Minimal"}),
        ("PUT", f"{surface}/{other.instance_id}", {"name": "Before"}),
    )
    for method, path, body in requests:
        answer = await api.request(method, path, json=body)
        assert answer.status_code == 400
        (reason,) = answer.json()["errors"]["Name"]
        assert "'EdFi_Ods_Before_Minimal'" in reason
        assert reason.endswith("Wait 10 minutes, or choose another name.")
    await let_time_pass(rows)
    answer = await api.put(f"{surface}/{other.instance_id}", json={"name": "Before"})
    assert answer.status_code == 202


@pytest.mark.parametrize(("surface", "resource"), [(INSTANCES, "dbInstance"), (MANAGE, "odsInstanceManage")])
async def test_instance_is_not_found_whatever_is_wrong_with_the_body_when_it_is_unknown_or_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, surface: str, resource: str
) -> None:
    job = await bring_to(instances, job_store, "Deleted", "Gone")
    for number in (job.instance_id, job.instance_id + 1, "x"):
        answer = await api.put(f"{surface}/{number}", json={"name": "-"})
        assert answer.status_code == 404
        assert answer.json()["title"].startswith(f"Not found: {resource} with ID {number}. ")


async def test_failed_rename_can_be_retried_and_taken_back_when_its_instance_is_in_error(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error_Rename", "Before")
    retried = await api.post(f"{INSTANCES}/{job.instance_id}/retry")
    assert (retried.status_code, retried.json()["jobId"]) == (202, job.job_id)
    (due,) = await job_store.waiting_jobs(0, 9)
    await job_store.begin(due)
    await job_store.fail(due, "Again.")
    early = await api.put(f"{INSTANCES}/{job.instance_id}", json={"name": "Before"})
    assert (early.status_code, "not undone yet" in early.json()["detail"]) == (409, True)
    await job_store.end_undo(due)
    back = await api.put(f"{INSTANCES}/{job.instance_id}", json={"name": "Before"})
    assert (back.status_code, back.json()["jobId"]) == (202, f"RenameInstanceJob-{job.ods_instance_id}-3")
