"""Every field of every answer, told by bytes: those of the contract, and on `manage` no others."""

import json
from collections.abc import Mapping

import pytest

from tests.api.server import ResponseModel, Server
from tests.api.service import bearer
from tests.servers import NUMBERS

JSON = "Content-Type: application/json"
CONNECTION_STRING = "host=test;port=90;username=test;password=a-secret-word;database=X;pooling=false"
MANAGED = {
    *("id", "name", "odsInstanceId", "odsInstanceName", "status", "databaseTemplate", "databaseName"),
    *("lastRefreshed", "lastModifiedDate"),
}
OURS_OF_JOBS = {"operation", "instanceId", "startedAt", "waiting", "percent", "etaSeconds"}
OURS = {
    *("operation", "newName", "errorMessage", "templateGeneration", "jobId", "progress", "waiting", "links"),
    *("protected", "description", "labels", "contexts", "deleteDropsDatabase", "retryDropsDatabase"),
    *("copyOf", "mode", "backupId"),
}
ODS_INSTANCE = {"id", "name", "instanceType"}
CONTEXT = {"id", "odsInstanceId", "contextKey", "contextValue"}
DERIVATIVE = {"id", "odsInstanceId", "derivativeType"}


async def send(server: Server, line: str, content: Mapping[str, object] | None = None) -> ResponseModel:
    token = f"Authorization: {bearer(server.settings)['Authorization']}"
    body = None if content is None else json.dumps(content).encode()
    answer = await server.ask(line, token, JSON, body=body)
    assert b"a-secret-word" not in answer.body
    return answer


@pytest.fixture(scope="module")
async def numbers(contract: Server) -> dict[str, int]:
    """The ids of an ODS instance, a context, a derivative and an instance, as their `Location` has them."""
    new = {"name": f"Answers {next(NUMBERS)}", "instanceType": "x", "connectionString": CONNECTION_STRING}
    location = (await send(contract, "POST /v2/odsInstances", new)).headers["location"]
    number = int(location.rpartition("/")[2])
    assert location == f"/odsInstances/{number}"
    found = {"odsInstances": number}
    for resource, content in (
        ("odsInstanceContexts", {"contextKey": "k", "contextValue": "v"}),
        ("odsInstanceDerivatives", {"derivativeType": "Snapshot", "connectionString": CONNECTION_STRING}),
    ):
        created = await send(contract, f"POST /v2/{resource}", content | {"odsInstanceId": number})
        found[resource] = int(created.headers["location"].removeprefix(f"/{resource}/"))
    made = await send(
        contract,
        "POST /v2/odsInstances/manage",
        {"name": f"Answers {next(NUMBERS)}", "databaseTemplate": "Minimal"},
    )
    assert (made.status, set(made.json())) == (202, MANAGED)
    found["manage"] = int(made.headers["location"].removeprefix("/odsinstances/manage/"))
    return found


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v2/odsInstances", ODS_INSTANCE),
        ("/v2/odsInstanceContexts", CONTEXT),
        ("/v2/odsInstanceDerivatives", DERIVATIVE),
        ("/v2/odsInstances/manage", MANAGED),
        ("/v2/dbInstances", MANAGED | OURS),
        ("/v2/tenants", {"tenantName", "adminConnectionString", "securityConnectionString"}),
    ],
)
async def test_items_have_exactly_these_fields_when_a_list_is_asked_for(
    contract: Server, numbers: dict[str, int], path: str, fields: set[str]
) -> None:
    answer = await send(contract, f"GET {path}?limit=10000")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json()
    assert all(set(item) == fields for item in answer.json())


@pytest.mark.parametrize(
    ("path", "resource", "fields"),
    [
        ("odsInstances", "odsInstances", {*ODS_INSTANCE, "odsInstanceContexts", "odsInstanceDerivatives"}),
        ("odsInstanceContexts", "odsInstanceContexts", CONTEXT),
        ("odsInstanceDerivatives", "odsInstanceDerivatives", DERIVATIVE),
        ("odsInstances/manage", "manage", MANAGED),
        ("dbInstances", "manage", MANAGED | OURS),
    ],
)
async def test_it_has_exactly_these_fields_when_one_is_asked_for(
    contract: Server, numbers: dict[str, int], path: str, resource: str, fields: set[str]
) -> None:
    answer = await send(contract, f"GET /v2/{path}/{numbers[resource]}")
    shown = answer.json()
    assert (answer.status, set(shown), shown["id"]) == (200, fields, numbers[resource])
    for part in shown.get("odsInstanceContexts", []):
        assert set(part) == CONTEXT
    for part in shown.get("odsInstanceDerivatives", []):
        assert set(part) == DERIVATIVE


async def test_number_of_the_location_is_the_ods_instance_id_when_an_instance_is_requested(
    contract: Server,
) -> None:
    new = {"name": f"Number {next(NUMBERS)}", "databaseTemplate": "Sample"}
    accepted = await send(contract, "POST /v2/dbInstances", new)
    told = accepted.json()
    assert (accepted.status, set(told)) == (
        202,
        {"id", "name", "odsInstanceId", "status", "jobId", "location", "copyOf", "mode", "notice"},
    )
    assert told["id"] == told["odsInstanceId"]
    assert accepted.headers["location"] == f"/v2/dbInstances/{told['id']}"
    assert told["location"] == f"/v2/jobs/{told['jobId']}"
    managed = (await send(contract, f"GET /v2/odsInstances/manage/{told['id']}")).json()
    assert (managed["status"], managed["odsInstanceId"]) == ("PendingCreate", None)
    job = (await send(contract, f"GET {told['location']}")).json()
    assert set(job) >= {"jobId", "status", "createdAt", "finishedAt", "errorMessage"}
    assert job.keys() <= OURS_OF_JOBS | {"jobId", "status", "createdAt", "finishedAt", "errorMessage"}
    assert (job["jobId"], job["status"], job["finishedAt"]) == (told["jobId"], "Pending", None)


async def test_instance_has_exactly_these_fields_when_the_view_of_the_tenant_is_asked_for(
    contract: Server, numbers: dict[str, int]
) -> None:
    view = (await send(contract, "GET /v2/tenants/default/odsInstances/edOrgs")).json()
    assert set(view) == {"id", "name", "odsInstances"}
    assert {field for instance in view["odsInstances"] for field in instance} == {
        *("id", "odsInstanceManageId", "name", "instanceType", "status", "databaseTemplate"),
        *("databaseName", "educationOrganizations"),
    }
    (own,) = [one for one in view["odsInstances"] if one["odsInstanceManageId"] == numbers["manage"]]
    assert (own["id"], own["status"]) == (None, "PendingCreate")


async def test_answer_has_exactly_these_fields_when_a_refresh_is_requested(
    contract: Server, numbers: dict[str, int]
) -> None:
    for path in ("", f"/{numbers['odsInstances']}"):
        answer = await send(contract, f"POST /v2/odsInstances{path}/edOrgs/refresh")
        told = answer.json()
        assert (answer.status, set(told)) == (202, {"jobId", "message"})
        assert answer.headers["location"] == f"/v2/jobs/{told['jobId']}"


@pytest.mark.parametrize(
    ("line", "status", "fields"),
    [
        ("PUT /v2/odsInstances/{odsInstances}", 200, ODS_INSTANCE),
        ("PUT /v2/odsInstanceContexts/{odsInstanceContexts}", 200, CONTEXT),
        ("PUT /v2/odsInstanceDerivatives/{odsInstanceDerivatives}", 200, DERIVATIVE),
    ],
)
async def test_answer_has_exactly_these_fields_when_one_is_changed(
    contract: Server, numbers: dict[str, int], line: str, status: int, fields: set[str]
) -> None:
    content = {
        "name": f"Answers {next(NUMBERS)}",
        "instanceType": None,
        "connectionString": "",
        "odsInstanceId": numbers["odsInstances"],
        "contextKey": "k",
        "contextValue": "w",
        "derivativeType": "ReadReplica",
    }
    answer = await send(contract, line.format(**numbers), content)
    assert (answer.status, set(answer.json())) == (status, fields)


async def test_answer_has_a_title_when_one_is_removed(contract: Server) -> None:
    new = {"name": f"Gone {next(NUMBERS)}", "instanceType": "x", "connectionString": CONNECTION_STRING}
    location = (await send(contract, "POST /v2/odsInstances", new)).headers["location"]
    answer = await send(contract, f"DELETE /v2{location}")
    assert answer.status == 200
    assert set(answer.json()) == {"title", "status"}


async def test_tenants_are_none_when_there_is_one_and_it_is_asked_without_a_token(contract: Server) -> None:
    for path in ("/v2/tenancy", "/V2//Tenancy/"):
        answer = await contract.ask(f"GET {path}")
        assert (answer.status, answer.json()) == (200, {"tenants": []})
