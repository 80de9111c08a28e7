"""Education organizations are listed; refreshes of them are accepted, joined and followed."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.education_organizations.refreshes import Scope
from ods.settings.settings import Settings
from tests.api.service import bearer, client_of, running
from tests.ods import ROWS, add_ods_instance, connection_string, ods_database, organizations
from tests.servers import session

EVERYTHING = "/v2/odsInstances/edOrgs/refresh"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def ods_instance(rows: asyncpg.Connection) -> int:
    """The id of an ODS instance."""
    return await add_ods_instance(rows, "North", "host=a")


def _one(ods_instance: int) -> str:
    return f"/v2/odsInstances/{ods_instance}/edOrgs/refresh"


async def _add_organization(rows: asyncpg.Connection, ods_instance: int, number: int) -> dict[str, object]:
    """Add a school, as a refresh would; returns it as clients are shown it."""
    await rows.execute(
        "INSERT INTO adminapi.educationorganizations (instanceid, instancename, educationorganizationid,"
        " nameofinstitution, discriminator, parentid)"
        " VALUES ($1, '', $2, 'A \"school\"', 'edfi.School', 255901)",
        ods_instance,
        number,
    )
    return {
        "educationOrganizationId": number,
        "nameOfInstitution": 'A "school"',
        "shortNameOfInstitution": None,
        "discriminator": "edfi.School",
        "parentId": 255901,
    }


async def test_organizations_of_all_or_one_are_listed_when_a_refresh_has_read_them(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    south = await add_ods_instance(rows, "South", "host=a")
    north = await add_ods_instance(rows, "North", "host=b")
    schools = [await _add_organization(rows, south, number) for number in (255901002, 255901001)]
    shown = {"id": south, "name": "South", "instanceType": None, "educationOrganizations": schools[::-1]}
    empty = {"id": north, "name": "North", "instanceType": None, "educationOrganizations": []}
    assert (await api.get("/v2/odsInstances/edOrgs")).json() == [empty, shown]
    assert (await api.get(f"/v2/odsInstances/{south}/edOrgs")).json() == [shown]
    paged = await api.get("/v2/odsInstances/edOrgs?orderBy=id&limit=1&offset=1")
    assert paged.json() == [empty]


async def test_all_ods_instances_are_listed_with_organizations_when_no_limit_is_given(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    for number in range(30):
        await add_ods_instance(rows, f"District {number}", "host=a")
    assert len((await api.get("/v2/odsInstances/edOrgs")).json()) == 30
    assert len((await api.get("/v2/odsInstances")).json()) == 25


async def test_organizations_are_not_found_when_the_ods_instance_does_not_exist(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.get("/v2/odsInstances/4711/edOrgs")
    assert answer.status_code == 404
    assert answer.json()["title"].startswith("Not found: odsInstance with ID 4711.")


async def test_refresh_of_everything_is_accepted_when_temporal_is_away(api: httpx.AsyncClient) -> None:
    answer = await api.post(EVERYTHING)
    assert answer.status_code == 202
    job = answer.json()["jobId"]
    assert answer.json() == {
        "jobId": job,
        "message": "The education organizations of all ODS instances are about to be read.",
    }
    assert answer.headers["Location"] == f"/v2/jobs/{job}"
    followed = (await api.get(answer.headers["Location"])).json()
    assert followed.pop("createdAt").endswith("Z")
    assert followed == {
        "jobId": job,
        "status": "Pending",
        "operation": "Refresh",
        "instanceId": None,
        "startedAt": None,
        "finishedAt": None,
        "errorMessage": None,
        "percent": None,
        "etaSeconds": None,
        "waiting": None,
    }


async def test_refresh_of_one_is_accepted_when_there_is_such_an_ods_instance(
    api: httpx.AsyncClient, ods_instance: int, rows: asyncpg.Connection
) -> None:
    answer = await api.post(_one(ods_instance))
    assert answer.status_code == 202
    assert "'North'" in answer.json()["message"]
    assert answer.headers["Location"] == f"/v2/jobs/{answer.json()['jobId']}"
    assert await rows.fetchval("SELECT odsinstanceid FROM adminapi.jobstatuses") == ods_instance


@pytest.mark.parametrize("ods_instance", ["999999", "0", "x", "99999999999999999999", "%00"])
async def test_resource_is_told_when_there_is_no_such_ods_instance(
    idle_api: httpx.AsyncClient, ods_instance: str
) -> None:
    answer = await idle_api.post(f"/v2/odsInstances/{ods_instance}/edOrgs/refresh")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"].startswith("Not found: odsInstance with ID ")


async def test_same_job_is_answered_when_one_waits_already(api: httpx.AsyncClient, ods_instance: int) -> None:
    first, second = await api.post(EVERYTHING), await api.post(EVERYTHING)
    one, another = await api.post(_one(ods_instance)), await api.post(_one(ods_instance))
    assert first.json() == second.json()
    assert one.json() == another.json()
    assert first.json()["jobId"] != one.json()["jobId"]


@pytest.mark.parametrize(
    "spelled", ["/V2/ODSINSTANCES/EDORGS/REFRESH", "/v2/odsinstances/edorgs/refresh/", EVERYTHING]
)
@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
async def test_refresh_is_accepted_when_path_and_body_are_spelled_otherwise(
    api: httpx.AsyncClient, spelled: str, body: bytes
) -> None:
    answer = await api.post(spelled, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202


@pytest.mark.parametrize("path", [EVERYTHING, _one(1), "/v2/tenants/default/odsInstances/edOrgs"])
async def test_answer_is_401_without_body_when_there_is_no_token(
    idle_stranger: httpx.AsyncClient, path: str
) -> None:
    answer = await idle_stranger.request("GET" if "tenants" in path else "POST", path)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_job_is_in_the_audit_trail_when_a_refresh_was_requested(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    job = (await api.post(EVERYTHING)).json()["jobId"]
    assert await rows.fetchval("SELECT jobid FROM adminapi.audit WHERE path = $1", EVERYTHING) == job


@pytest.mark.usefixtures("workers")
async def test_organizations_are_in_the_view_when_the_job_is_completed(
    api_with_temporal: httpx.AsyncClient, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres) as database:
        added = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        requested = await api_with_temporal.post(_one(added))

        async def is_completed() -> bool:
            job = (await api_with_temporal.get(requested.headers["Location"])).json()
            return bool(job["status"] == "Completed" and job["finishedAt"])

        await wait_until(is_completed, 20)
    assert await organizations(rows, added) == ROWS
    (shown,) = (await api_with_temporal.get("/v2/tenants/default/odsInstances/edOrgs")).json()["odsInstances"]
    assert [one["educationOrganizationId"] for one in shown["educationOrganizations"]] == [1, 11, 111]


async def test_nothing_is_started_when_the_trigger_is_the_schedule(
    settings: Settings, temporal: Client, rows: asyncpg.Connection, ods_instance: int
) -> None:
    waiting = settings.model_copy(update={"trigger": "scheduled"})
    address = temporal.service_client.config.target_host
    async with running(waiting, address) as app, client_of(app, headers=bearer(waiting)) as client:
        assert (await client.post(_one(ods_instance))).status_code == 202
    with pytest.raises(RPCError) as refused:
        await temporal.get_workflow_handle(Scope(ods_instance).workflow_id).describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND
