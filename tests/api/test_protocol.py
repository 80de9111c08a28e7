"""What the contract says of every request, told by bytes and headers."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.server import ResponseModel, Server, spellings
from tests.api.service import bearer, tokens
from tests.servers import NUMBERS

JSON = "Content-Type: application/json"
PROBLEM = "application/problem+json"
INSTANCES = "/v2/dbInstances"
WRONG_VERSION = {"message": "Wrong API version for this instance mode."}
NONSENSE = "Authorization: Bearer nonsense"


def authorization(server: Server) -> str:
    return f"Authorization: {bearer(server.settings)['Authorization']}"


@pytest.fixture
def known(contract: Server) -> str:
    """The header of a client with a valid token."""
    return authorization(contract)


async def create(server: Server, content: object, *headers: str) -> ResponseModel:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await server.ask(f"POST {INSTANCES}", authorization(server), JSON, *headers, body=body)


def assert_problem(answer: ResponseModel, status: int) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    assert problem["title"]
    return problem


# The order of checks: version, tenant header, authentication, authorization, handler.


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/odsInstances",
        "GET /v3/odsInstances",
        "GET /V1/dbinstances/1/",
        "POST /v1/connect/token",
        "DELETE /data/V3/x",
        "GET /v1/",
        "GET /v2/v1/jobs",
        "GET /%761/jobs",
    ],
)
@pytest.mark.parametrize("headers", [(), (NONSENSE,)])
async def test_version_is_wrong_with_or_without_token_when_v1_or_v3_is_in_the_path(
    contract: Server, line: str, headers: tuple[str, ...]
) -> None:
    answer = await contract.ask(line, *headers)

    assert answer.status == 400
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json() == WRONG_VERSION


async def test_version_is_judged_first_when_the_token_is_valid(contract: Server, known: str) -> None:
    assert (await contract.ask("GET /v1/jobs", known)).json() == WRONG_VERSION


@pytest.mark.parametrize("path", ["/v2/jobs/v1", "/v2/dbInstances?name=/v1/", "/v2/v1x", "/v2/xv1/"])
async def test_version_is_right_when_v1_is_no_part_of_the_path(
    contract: Server, known: str, path: str
) -> None:
    assert (await contract.ask(f"GET {path}", known)).json() != WRONG_VERSION


@pytest.mark.parametrize(
    ("line", "headers", "body"),
    [
        (f"GET {INSTANCES}", (), None),
        ("GET /V2/DBINSTANCES/", (), None),
        (f"GET {INSTANCES}", (NONSENSE,), None),
        (f"POST {INSTANCES}", (JSON,), b"{"),
        (f"POST {INSTANCES}", ("Content-Type: x",), b"x"),
        (f"GET {INSTANCES}?offset=-1", (), None),
        (f"GET {INSTANCES}/1", (), None),
        (f"PATCH {INSTANCES}", (), None),
        ("GET /v2/nowhere", (), None),
        ("GET /v2", (), None),
    ],
)
async def test_token_is_asked_for_before_anything_else_of_the_request_is_judged(
    contract: Server, line: str, headers: tuple[str, ...], body: bytes | None
) -> None:
    answer = await contract.ask(line, *headers, body=body)

    assert (answer.status, answer.body) == (401, b"")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-length"] == "0"


@pytest.mark.parametrize("line", [f"GET {INSTANCES}?offset=-1", "GET /v2/nowhere", f"PATCH {INSTANCES}"])
async def test_scope_is_judged_before_the_handler_when_the_token_is_valid(
    contract: Server, line: str
) -> None:
    token = tokens(contract.settings).issue("a-client", "another/scope")
    answer = await contract.ask(line, f"Authorization: Bearer {token}")

    assert (answer.status, answer.body) == (403, b"")
    assert answer.headers["content-length"] == "0"


@pytest.mark.parametrize("path", ["/", "/health", "/HEALTH/", "/docs", "/openapi.json", "/OpenApi.json/"])
@pytest.mark.parametrize("headers", [(), (NONSENSE,)])
async def test_path_is_anonymous_when_it_is_information_or_documentation(
    contract: Server, path: str, headers: tuple[str, ...]
) -> None:
    assert (await contract.ask(f"GET {path}", *headers)).status == 200


# Routes, and names of queries.


@pytest.mark.parametrize(
    "path", ["/v2/odsInstances", "/v2/dbInstances", "/v2/audit", "/health", "/openapi.json"]
)
async def test_answer_is_the_same_when_a_path_is_spelled_in_five_ways(
    contract: Server, known: str, path: str
) -> None:
    answers = [await contract.ask(f"GET {spelled}", known) for spelled in spellings(path)]

    assert {answer.status for answer in answers} == {200}
    assert all("location" not in answer.headers for answer in answers)
    assert len({re.sub(rb'"elapsedSeconds":[0-9.]+', b"", answer.body) for answer in answers}) == 1


async def test_every_path_is_the_same_in_five_spellings(contract: Server, known: str) -> None:
    description = (await contract.ask("GET /openapi.json")).json()
    for path in description["paths"]:
        asked = re.sub(r"\{\w+\}", "0", path)
        told = [await contract.ask(f"OPTIONS {spelled}", known) for spelled in spellings(asked)]
        # The verbs tell which of all paths it is taken for.
        assert all(answer.status == 405 for answer in told), path
        verbs = ", ".join(sorted(verb.upper() for verb in description["paths"][path]))
        assert {answer.headers["allow"] for answer in told} == {verbs}, path


async def test_instance_is_created_shown_and_deleted_when_paths_are_spelled_in_five_ways(
    contract: Server, known: str
) -> None:
    for spelled in spellings(INSTANCES):
        content = json.dumps({"name": f"Spelled {next(NUMBERS)}", "databaseTemplate": "Minimal"}).encode()
        created = await contract.ask(f"POST {spelled}", known, JSON, body=content)
        number = created.json()["id"]
        for one in spellings(f"{INSTANCES}/{number}"):
            assert (await contract.ask(f"GET {one}", known)).json()["id"] == number
        for one in spellings(f"{INSTANCES}/{number}/retry"):
            assert (await contract.ask(f"POST {one}", known)).status == 409


@pytest.mark.parametrize("path", ["/v2/dbInstances//", "//v2/dbInstances", "/V2///dbinstances"])
async def test_slashes_count_as_one_when_several_follow_each_other(
    contract: Server, known: str, path: str
) -> None:
    answer = await contract.ask(f"GET {path}?limit=0", known)
    assert (answer.status, answer.json()) == (200, [])


@pytest.mark.parametrize("name", ["limit", "Limit", "LIMIT", "l%49mit"])
async def test_name_of_a_query_is_understood_when_it_comes_in_any_case(
    contract: Server, known: str, name: str
) -> None:
    assert (await contract.ask(f"GET {INSTANCES}?{name}=0", known)).json() == []
    assert (await contract.ask(f"GET {INSTANCES}?{name}=-1", known)).status == 400


async def test_list_is_sorted_when_the_names_of_its_queries_come_in_any_case(
    contract: Server, known: str
) -> None:
    first, second = [await create_ods_instance(contract) for _ in range(2)]
    for query in (
        "orderBy=Id&direction=desc",
        "ORDERBY=ID&DIRECTION=DESC",
        "orderby=id&Direction=Descending",
    ):
        listed = (await contract.ask(f"GET /v2/odsInstances?{query}", known)).json()
        assert [row["id"] for row in listed[:2]] == [second, first]
    problem = assert_problem(await contract.ask("GET /v2/odsInstances?OrderBy=Size", known), 400)
    assert set(problem["errors"]) == {"orderBy"}


@pytest.mark.parametrize("spelled", spellings("/v2/odsInstances/manage"))
async def test_manage_wins_over_an_id_when_it_is_spelled_in_five_ways(
    contract: Server, known: str, spelled: str
) -> None:
    listed = await contract.ask(f"GET {spelled}?limit=0", known)
    refused = await contract.ask(f"DELETE {spelled}", known)

    assert (listed.status, listed.json()) == (200, [])
    assert_problem(refused, 405)
    assert refused.headers["allow"] == "GET, POST"


# JSON in.


async def create_ods_instance(server: Server) -> int:
    """The id of a new ODS instance."""
    new = {"name": f"Ods {next(NUMBERS)}", "instanceType": "x", "connectionString": "host=h;database=d"}
    body = json.dumps(new).encode()
    created = await server.ask("POST /v2/odsInstances", authorization(server), JSON, body=body)
    assert created.status == 201
    return int(created.headers["location"].rpartition("/")[2])


@pytest.mark.parametrize(("written", "status"), [(int, 201), (str, 201), (float, 400), (bool, 400)])
async def test_number_is_read_when_it_comes_as_number_or_as_text(
    contract: Server, known: str, written: Callable[[int], object], status: int
) -> None:
    number = await create_ods_instance(contract)
    body = {"odsInstanceId": written(number), "contextKey": "k", "contextValue": "v"}
    answer = await contract.ask("POST /v2/odsInstanceContexts", known, JSON, body=json.dumps(body).encode())
    assert answer.status == status


@pytest.mark.parametrize(
    "names", [("name", "databaseTemplate"), ("NAME", "DATABASETEMPLATE"), ("Name", "databasetemplate")]
)
async def test_property_is_understood_when_its_name_comes_in_any_case(
    contract: Server, names: tuple[str, str]
) -> None:
    name = f"Any case {next(NUMBERS)}"
    answer = await create(contract, {names[0]: name, names[1]: "Minimal"})

    assert (answer.status, answer.json()["name"]) == (202, name)


async def test_property_is_ignored_when_it_is_unknown(contract: Server) -> None:
    new = {"name": f"Unknown {next(NUMBERS)}", "databaseTemplate": "Minimal", "x": {"y": [None]}, "": 1}
    assert (await create(contract, new)).status == 202


@pytest.mark.parametrize("body", [b"null", b" null\n", b"{}", b""])
async def test_body_is_tolerated_when_none_is_needed(contract: Server, known: str, body: bytes) -> None:
    for line in (f"POST {INSTANCES}/0/retry", f"DELETE {INSTANCES}/0"):
        assert (await contract.ask(line, known, JSON, body=body)).status == 404


async def test_body_that_says_something_is_tolerated_only_in_a_request_of_the_admin_api(
    contract: Server, known: str
) -> None:
    for line, status in ((f"POST {INSTANCES}/0/retry", 400), (f"DELETE {INSTANCES}/0", 404)):
        assert (await contract.ask(line, known, JSON, body=b"x")).status == status


async def test_null_is_no_body_when_one_is_needed(contract: Server) -> None:
    problem = assert_problem(await create(contract, b"null"), 400)
    assert set(problem["errors"]) == {"Name", "DatabaseTemplate"}


# JSON out.


async def test_answer_is_in_camel_case_with_nulls_and_utc_times(contract: Server, known: str) -> None:
    new = {"name": f"Out {next(NUMBERS)}", "databaseTemplate": "Minimal"}
    created = (await create(contract, new)).json()
    answer = await contract.ask(f"GET {INSTANCES}/{created['id']}", known)
    job = await contract.ask(f"GET {created['location']}", known)

    assert answer.headers["content-type"] == "application/json"
    assert all(re.fullmatch(r"[a-z][A-Za-z]*", name) for name in answer.json())
    assert b'"odsInstanceName":null' in answer.body
    assert b'"errorMessage":null' in answer.body
    assert b'"finishedAt":null' in job.body
    for time in (answer.json()["lastRefreshed"], job.json()["createdAt"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time)


# Errors.


async def test_all_rules_are_reported_together_in_pascal_case_when_a_request_is_invalid(
    contract: Server,
) -> None:
    problem = assert_problem(await create(contract, {"name": " ", "databaseTemplate": "minimal"}), 400)

    assert problem["title"] == "Validation failed"
    assert set(problem["errors"]) == {"Name", "DatabaseTemplate"}
    assert "'Name' must not be empty." in problem["errors"]["Name"]
    assert all(isinstance(messages, list) for messages in problem["errors"].values())


@pytest.mark.parametrize("name", ["offset", "limit"])
async def test_property_is_named_in_pascal_case_when_a_query_is_invalid(
    contract: Server, known: str, name: str
) -> None:
    problem = assert_problem(await contract.ask(f"GET {INSTANCES}?{name}=-1", known), 400)
    assert set(problem["errors"]) == {name.title()}


@pytest.mark.parametrize(
    ("path", "resource"), [(f"{INSTANCES}/0", "dbInstance"), ("/v2/odsInstances/0", "odsInstance")]
)
async def test_resource_and_id_are_named_when_nothing_is_found(
    contract: Server, known: str, path: str, resource: str
) -> None:
    problem = assert_problem(await contract.ask(f"GET {path}", known), 404)
    assert problem["title"].startswith(f"Not found: {resource} with ID 0. ")


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b'{"name": "", "connectionString": "WrongConnection"}']
)
async def test_not_found_wins_over_validation_when_both_are_wrong(
    contract: Server, known: str, body: bytes
) -> None:
    for resource in ("odsInstance", "odsInstanceContext", "odsInstanceDerivative"):
        problem = assert_problem(await contract.ask(f"PUT /v2/{resource}s/0", known, JSON, body=body), 404)
        assert problem["title"].startswith(f"Not found: {resource} with ID 0. ")


@pytest.mark.parametrize("path", ["/nowhere", "/v2/nowhere", f"{INSTANCES}/1/nowhere", "/v2", "/connect"])
async def test_path_is_not_found_when_it_is_unknown(contract: Server, known: str, path: str) -> None:
    assert_problem(await contract.ask(f"GET {path}", known), 404)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (f"PATCH {INSTANCES}", "GET, POST"),
        (f"PATCH {INSTANCES.upper()}/", "GET, POST"),
        ("GET /connect/token", "POST"),
        ("POST /", "GET, HEAD"),
        ("DELETE /health", "GET, HEAD"),
    ],
)
async def test_verb_is_refused_when_it_is_wrong(
    contract: Server, known: str, line: str, allowed: str
) -> None:
    answer = await contract.ask(line, known)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("body", [b"{", b"{'name': 1}", b'{"name": NaN}', b'{"name": 1,}', b"\xff", b"nul"])
async def test_request_is_bad_when_its_json_is_malformed(contract: Server, body: bytes) -> None:
    assert_problem(await create(contract, body), 400)


@pytest.mark.parametrize("kind", ["Content-Type: text/plain", "Content-Type: application/xml", "X-No: type"])
async def test_content_type_is_refused_when_it_is_wrong(contract: Server, known: str, kind: str) -> None:
    answer = await contract.ask(f"POST {INSTANCES}", known, kind, body=b'{"name": "x"}')
    assert_problem(answer, 415)
