"""The phrases that clients of the Admin API compare, told by bytes, to the letter and where they look."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.api.server import ResponseModel, Server
from tests.api.service import bearer
from tests.servers import NUMBERS

JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
CONTEXTS, DERIVATIVES, ODS_INSTANCES = "odsInstanceContexts", "odsInstanceDerivatives", "odsInstances"
CONNECTION_STRING = "host=test;port=90;username=test;password=test;database=X;pooling=false"
WEAK_SECRET = (
    "must contain at least one lowercase letter, one uppercase letter, one number, and one special character,"
    " and must be 32 to 128 characters"
)
OTHER_TYPE = (
    "The value for the Derivative type is not allowed."
    " The only accepted values are: 'ReadReplica' or 'Snapshot'"
)


async def send(server: Server, line: str, content: Mapping[str, object] | None = None) -> ResponseModel:
    token = f"Authorization: {bearer(server.settings)['Authorization']}"
    body = None if content is None else json.dumps(content).encode()
    return await server.ask(line, token, JSON, body=body)


def errors_of(answer: ResponseModel) -> dict[str, list[str]]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert problem["title"] == "Validation failed"
    errors: dict[str, list[str]] = problem["errors"]
    return errors


@pytest.fixture(scope="module")
async def number(contract: Server) -> int:
    """The id of an ODS instance."""
    new = {"name": f"Phrases {next(NUMBERS)}", "instanceType": "x", "connectionString": CONNECTION_STRING}
    created = await send(contract, f"POST /v2/{ODS_INSTANCES}", new)
    return int(created.headers["location"].rpartition("/")[2])


def context(number: object, key: object = "a key") -> dict[str, object]:
    return {"odsInstanceId": number, "contextKey": key, "contextValue": "a value"}


def derivative(
    number: object, kind: object = "Snapshot", text: object = CONNECTION_STRING
) -> dict[str, object]:
    return {"odsInstanceId": number, "derivativeType": kind, "connectionString": text}


@pytest.mark.parametrize("secret", ["short", "a" * 32, "A-secret of enough characters" * 5])
async def test_secret_is_refused_with_the_phrase_when_it_is_weak(contract: Server, secret: str) -> None:
    form = {"ClientId": f"client {next(NUMBERS)}", "ClientSecret": secret, "DisplayName": "A client"}
    answer = await contract.ask("POST /connect/register", FORM, body=urlencode(form).encode())
    ((message,),) = errors_of(answer).values()
    assert list(errors_of(answer)) == ["ClientSecret"]
    assert WEAK_SECRET in message


@pytest.mark.parametrize("written", [0, "0", None])
async def test_part_is_refused_with_the_phrase_when_its_ods_instance_is_0(
    contract: Server, written: object
) -> None:
    for resource, content in ((CONTEXTS, context(written)), (DERIVATIVES, derivative(written))):
        (message,) = errors_of(await send(contract, f"POST /v2/{resource}", content))["OdsInstanceId"]
        assert "provide valid ods instance id." in message


@pytest.mark.parametrize("identifier", ["987654321", "x"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("resource", [ODS_INSTANCES, CONTEXTS, DERIVATIVES])
async def test_title_has_the_phrase_when_nothing_has_the_id(
    contract: Server, resource: str, method: str, identifier: str
) -> None:
    answer = await send(contract, f"{method} /v2/{resource}/{identifier}", {})
    expected = f"Not found: {resource[:-1]} with ID {identifier}. It may have been recently deleted"
    assert (answer.status, answer.json()["title"][: len(expected)]) == (404, expected)


@pytest.mark.parametrize(
    "path", ["/v2/odsInstances/987654321/applications", "/v2/odsInstances/987654321/edOrgs/refresh"]
)
async def test_title_has_the_phrase_when_something_of_an_unknown_ods_instance_is_asked_for(
    contract: Server, path: str
) -> None:
    method = "POST" if path.endswith("refresh") else "GET"
    title = (await send(contract, f"{method} {path}")).json()["title"]
    assert title.startswith("Not found: odsInstance with ID 987654321. It may have been recently deleted")


async def test_pair_is_refused_with_exactly_the_phrase_when_it_is_taken(
    contract: Server, number: int
) -> None:
    for resource, content, word in (
        (CONTEXTS, context(number, "taken"), "context key"),
        (DERIVATIVES, derivative(number, "ReadReplica"), "derivative type"),
    ):
        assert (await send(contract, f"POST /v2/{resource}", content)).status == 201
        errors = errors_of(await send(contract, f"POST /v2/{resource}", content))
        assert errors == {"": [f"The combined key ODS instance id and {word} must be unique."]}


@pytest.mark.parametrize("kind", ["Other", "Snapshots", "1"])
async def test_type_is_refused_with_the_phrase_when_it_is_another(
    contract: Server, number: int, kind: str
) -> None:
    errors = errors_of(await send(contract, f"POST /v2/{DERIVATIVES}", derivative(number, kind)))
    assert OTHER_TYPE in errors["DerivativeType"][0]


@pytest.mark.parametrize("text", ["WrongConnection", "host=h;nonsense=1"])
async def test_connection_string_is_refused_with_the_phrase_when_it_is_bad(
    contract: Server, number: int, text: str
) -> None:
    of_derivative = errors_of(await send(contract, f"POST /v2/{DERIVATIVES}", derivative(number, text=text)))
    new = {"name": f"Phrases {next(NUMBERS)}", "instanceType": "x", "connectionString": text}
    of_ods_instance = errors_of(await send(contract, f"POST /v2/{ODS_INSTANCES}", new))

    assert "The connection string is not valid." in of_derivative["ConnectionString"][0]
    assert "is not valid" in of_ods_instance["ConnectionString"][0]


async def test_unknown_instance_wins_when_a_derivative_has_other_faults_too(contract: Server) -> None:
    wrong = derivative(987654321, "Other", "WrongConnection")
    answer = await send(contract, f"POST /v2/{DERIVATIVES}", wrong)
    assert answer.status == 404
    assert answer.json()["title"].startswith("Not found: odsInstance with ID 987654321. It may have been")


@pytest.mark.parametrize(
    ("line", "content", "property_name", "phrase"),
    [
        (f"POST /v2/{ODS_INSTANCES}", {}, "Name", "'Name' must not be empty."),
        (f"POST /v2/{ODS_INSTANCES}", {}, "ConnectionString", "'Connection String' must not be empty."),
        (f"POST /v2/{CONTEXTS}", context(0, " "), "ContextKey", "'Context Key' must not be empty."),
        ("POST /v2/dbInstances", {}, "DatabaseTemplate", "'Database Template' must not be empty."),
        ("POST /v2/odsInstances/manage", {}, "Name", "'Name' must not be empty."),
    ],
)
async def test_property_is_named_in_split_words_when_it_is_empty(
    contract: Server, line: str, content: dict[str, object], property_name: str, phrase: str
) -> None:
    assert phrase in errors_of(await send(contract, line, content))[property_name]
