"""`/v2/odsInstances/manage`: the instances of `/v2/dbInstances`, in the words of that surface."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.model.operations import Template
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running
from tests.postgres.instance_states import bring_to
from tests.servers import session

MANAGE = "/v2/odsInstances/manage"
INSTANCES = "/v2/dbInstances"
FIELDS = {
    *("id", "name", "odsInstanceId", "odsInstanceName", "status", "databaseTemplate", "databaseName"),
    *("lastRefreshed", "lastModifiedDate"),
}
WORDS = {
    "Pending": "PendingCreate",
    "InProgress": "CreateInProgress",
    "Completed": "Created",
    "Error": "CreateError",
    "Pending_Delete": "PendingDelete",
    "InProgress_Delete": "DeleteInProgress",
    "Deleted": "Deleted",
    "Delete_Failed": "DeleteError",
}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


async def test_request_is_accepted_at_the_address_of_this_surface_when_it_is_valid(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await api.post(MANAGE, json={"name": " Managed ", "databaseTemplate": "Sample"})

    ((number, name),) = await rows.fetch("SELECT id, name FROM adminapi.dbinstances")
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/odsinstances/manage/{number}"
    assert name == "Managed"
    shown = answer.json()
    assert (shown["id"], shown["status"], shown["odsInstanceId"]) == (number, "PendingCreate", None)
    assert (await api.get(f"/v2/jobs/CreateInstanceJob-{number}-1")).json()["status"] == "Pending"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("protected", True),
        ("labels", {"district": "255901"}),
        ("contexts", [{"contextKey": "schoolYear", "contextValue": "2027"}]),
        ("description", "of the pilot"),
        ("copyOf", 1),
        ("mode", "closed"),
        ("backupId", "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f12"),
    ],
)
async def test_request_is_refused_when_it_has_what_this_surface_would_ignore(
    api: httpx.AsyncClient, member: str, value: object
) -> None:
    new = {"name": "Managed", "databaseTemplate": "Sample"}
    refused = await api.post(MANAGE, json={**new, member: value})
    assert refused.status_code == 400
    (reason,) = refused.json()["errors"][f"{member[0].upper()}{member[1:]}"]
    assert "is set by POST /v2/dbInstances, not by this request." in reason
    assert (await api.get(MANAGE)).json() == []
    assert (await api.post(MANAGE, json={**new, member: type(value)(), "tenantId": 1})).status_code == 202


async def test_rename_is_refused_when_it_has_attributes_that_it_would_not_change(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Managed")
    refused = await api.put(f"{MANAGE}/{job.instance_id}", json={"name": "Another", "protected": True})
    assert refused.json()["errors"] == {
        "Protected": ["PUT only renames an instance. PATCH changes 'protected'."]
    }
    assert (await api.get(f"{MANAGE}/{job.instance_id}")).json()["name"] == "Managed"


@pytest.mark.parametrize("state", WORDS)
async def test_status_is_told_in_the_words_of_this_surface_when_the_instance_is_in_any_state(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Told")
    (listed,) = (await api.get(MANAGE)).json()
    (same,) = (await api.get(INSTANCES)).json()

    exists = state not in {"Pending", "InProgress", "Error"}
    assert listed["status"] == WORDS[state]
    assert listed["odsInstanceId"] == (job.ods_instance_id if exists else None)
    assert listed["odsInstanceName"] == ("Told" if exists else None)
    # All else is the same, and there is nothing else: clients may refuse fields that they do not know.
    assert set(listed) == FIELDS
    for member in FIELDS - {"status", "odsInstanceId"}:
        assert listed[member] == same[member]


@pytest.mark.parametrize("state", WORDS)
async def test_instance_is_shown_as_it_is_listed_when_it_is_in_any_state(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Shown")
    (listed,) = (await api.get(MANAGE)).json()
    shown = (await api.get(f"{MANAGE}/{job.instance_id}")).json()

    assert shown == listed


async def test_page_and_filters_are_those_of_the_other_surface_when_a_list_is_asked_for(
    api: httpx.AsyncClient, instances: InstanceStore
) -> None:
    ids = [(await instances.reserve(f"N{n}", Template.MINIMAL)).instance.id for n in range(27)]

    async def listed(**query: Any) -> list[int]:
        return [row["id"] for row in (await api.get(MANAGE, params=query)).json()]

    assert await listed() == ids[:25]
    assert await listed(offset=25, limit=10_000) == ids[25:]
    assert await listed(name="N3") == await listed(id=ids[3]) == [ids[3]]
    assert await listed(name="n3") == []
    assert (await api.get(MANAGE, params={"limit": -1})).json()["errors"].keys() == {"Limit"}


@pytest.mark.parametrize("state", ["Completed", "Error", "Delete_Failed"])
async def test_delete_is_accepted_without_a_body_when_no_job_is_under_way(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Leaving")
    answer = await api.delete(f"{MANAGE}/{job.instance_id}")

    assert (answer.status_code, answer.content) == (204, b"")
    (listed,) = (await api.get(MANAGE)).json()
    assert listed["status"] == "PendingDelete"
    (same,) = (await api.get(INSTANCES)).json()
    assert same["jobId"] == f"DeleteInstanceJob-{job.ods_instance_id}-{job.number + 1}"


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Pending_Delete", "InProgress_Delete"])
async def test_delete_is_refused_under_id_when_a_job_is_under_way(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Busy")
    answer = await api.delete(f"{MANAGE}/{job.instance_id}")

    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Validation failed"
    (message,) = answer.json()["errors"]["id"]
    assert "cannot be deleted" in message


async def test_delete_is_refused_under_id_when_an_application_uses_the_ods_instance(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "In use")
    await rows.execute(
        "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
        " VALUES (1, $1)",
        job.ods_instance_id,
    )
    answer = await api.delete(f"{MANAGE}/{job.instance_id}")

    assert answer.status_code == 400
    assert "Applications" in answer.json()["errors"]["id"][0]


@pytest.mark.parametrize("number", ["1", "0", "-1", "x", "2147483648"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_instance_is_not_found_when_no_live_one_has_the_id(
    idle_api: httpx.AsyncClient, method: str, number: str
) -> None:
    answer = await idle_api.request(method, f"{MANAGE}/{number}")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith(f"Not found: odsInstanceManage with ID {number}. ")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_instance_is_not_found_when_it_is_deleted_and_shall_be_changed(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, method: str
) -> None:
    job = await bring_to(instances, job_store, "Deleted", "Gone")
    answer = await api.request(method, f"{MANAGE}/{job.instance_id}", json={"name": "Other"})

    assert answer.status_code == 404
    assert "odsInstanceManage" in answer.json()["title"]


async def test_all_faults_are_reported_together_when_a_request_breaks_rules(
    idle_api: httpx.AsyncClient,
) -> None:
    wrong = {"name": "-", "databaseTemplate": "minimal"}
    here, there = [await idle_api.post(surface, json=wrong) for surface in (MANAGE, INSTANCES)]

    assert here.status_code == 400
    assert here.json()["errors"].keys() == {"Name", "DatabaseTemplate"}
    assert here.json() == there.json()


async def test_name_is_refused_when_an_instance_of_the_other_surface_has_it(api: httpx.AsyncClient) -> None:
    body = {"name": "Same", "databaseTemplate": "Minimal"}
    first, second = [await api.post(surface, json=body) for surface in (INSTANCES, MANAGE)]

    assert (first.status_code, second.status_code) == (202, 400)
    assert "already exists" in second.json()["errors"]["Name"][0]


async def test_token_is_needed_when_instances_are_managed(idle_stranger: httpx.AsyncClient) -> None:
    for method, path in [
        ("GET", MANAGE),
        ("POST", MANAGE),
        ("GET", f"{MANAGE}/1"),
        ("DELETE", f"{MANAGE}/1"),
    ]:
        answer = await idle_stranger.request(method, path)
        assert (answer.status_code, answer.content) == (401, b"")


@pytest.mark.parametrize("surface", [MANAGE, INSTANCES])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/1"), ("DELETE", "/1"), ("GET", "/x")]
)
async def test_every_request_is_refused_when_the_feature_is_switched_off(
    switched_off: httpx.AsyncClient, surface: str, method: str, path: str
) -> None:
    answer = await switched_off.request(method, surface + path)

    assert answer.status_code == 400
    (message,) = answer.json()["errors"]["OdsInstance"]
    assert "disabled on application settings" in message


async def test_instance_is_not_deleted_by_its_ods_instance_when_the_feature_is_switched_off(
    settings: Settings, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Managed")
    other = await rows.fetchval(
        "INSERT INTO dbo.odsinstances (name, instancetype, connectionstring) VALUES ('Other', 'ODS', 'x')"
        " RETURNING odsinstanceid"
    )
    unmanaged = settings.model_copy(update={"instance_management": False})
    async with running(unmanaged, NOBODY) as app, client_of(app, headers=bearer(unmanaged)) as client:
        refused = await client.delete(f"/v2/odsInstances/{job.ods_instance_id}")
        assert refused.status_code == 400
        assert refused.json()["errors"] == {
            "Id": ["An instance has it, and their management has been disabled on application settings."]
        }
        assert (await client.delete(f"/v2/odsInstances/{other}")).status_code == 200
    assert await rows.fetchval("SELECT status FROM adminapi.dbinstances") == "Completed"


@pytest.fixture(scope="module")
async def switched_off(idle_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that does not manage instances."""
    settings = idle_settings.model_copy(update={"instance_management": False})
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as client:
        yield client
