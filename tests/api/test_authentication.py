"""What the contract says of registering and of tokens, told by bytes and headers."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ods.settings.settings import Settings
from tests.api import server
from tests.api.server import ResponseModel, Server, spellings
from tests.secret_search import as_secret
from tests.servers import NUMBERS

FORM = "Content-Type: application/x-www-form-urlencoded"
PROBLEM = "application/problem+json"
SCOPE = "edfi_admin_api/full_access"
SECRET = as_secret("A-secret+with%41ll 4 kinds: abcdefgh")
REGISTER = "/connect/register"
TOKEN = "/connect/token"
DENIED = "Access Denied. Please review your information and try again."
BAD_SCOPE = "The request is missing required scope claims or has invalid scope values"


async def post(server: Server, path: str, fields: dict[str, str], *headers: str) -> ResponseModel:
    return await server.ask(f"POST {path}", FORM, *headers, body=urlencode(fields).encode())


def registration(**changes: str) -> dict[str, str]:
    new = {"ClientId": f"client {next(NUMBERS)}", "ClientSecret": SECRET, "DisplayName": "A client"}
    return new | changes


@pytest.fixture(scope="module")
async def client_id(contract: Server) -> str:
    """A client that is registered."""
    new = registration()
    assert (await post(contract, REGISTER, new)).status == 200
    return new["ClientId"]


@pytest.fixture
def grant(client_id: str) -> dict[str, str]:
    """A request for a token that is in order."""
    return {
        "grant_type": "client_credentials",
        "scope": SCOPE,
        "client_id": client_id,
        "client_secret": SECRET,
    }


def basic(client_id: str, secret: str) -> str:
    credentials = f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()
    return f"Authorization: Basic {base64.b64encode(credentials).decode()}"


# Registering.


async def test_client_is_registered_when_its_form_is_valid(contract: Server) -> None:
    new = registration()
    answer = await post(contract, REGISTER, new)

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "title": f"Registered client {new['ClientId']} successfully.",
        "status": 200,
    }


@pytest.mark.parametrize("spelled", spellings(REGISTER))
async def test_client_is_registered_when_the_path_is_spelled_in_five_ways(
    contract: Server, spelled: str
) -> None:
    assert (await post(contract, spelled, registration())).status == 200


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
async def test_field_is_understood_when_its_name_comes_in_any_case(
    contract: Server, change: Callable[[str], str]
) -> None:
    fields = {change(name): value for name, value in registration().items()}
    assert (await post(contract, REGISTER, fields)).status == 200


def faults(answer: ResponseModel) -> dict[str, list[str]]:
    assert (answer.status, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.json()["title"] == "Validation failed"
    errors: dict[str, list[str]] = answer.json()["errors"]
    return errors


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
@pytest.mark.parametrize(
    ("field", "words"),
    [("ClientId", "Client Id"), ("ClientSecret", "Client Secret"), ("DisplayName", "Display Name")],
)
async def test_field_has_exactly_one_message_when_it_is_empty(
    contract: Server, field: str, words: str, empty: str
) -> None:
    answer = await post(contract, REGISTER, registration(**{field: empty}))
    assert faults(answer) == {field: [f"'{words}' must not be empty."]}


async def test_each_field_has_exactly_one_message_when_none_is_sent(contract: Server) -> None:
    told = faults(await post(contract, REGISTER, {}))
    assert {field: len(messages) for field, messages in told.items()} == {
        "ClientId": 1,
        "ClientSecret": 1,
        "DisplayName": 1,
    }


@pytest.mark.parametrize(
    "secret",
    [
        "Aa1!" + "x" * 27,
        "Aa1!" + "x" * 125,
        "AA1!" + "X" * 30,
        "aa1!" + "x" * 30,
        "Aaa!" + "x" * 30,
        "Aa11" + "x" * 30,
    ],
)
async def test_one_message_says_all_when_the_secret_is_weak(contract: Server, secret: str) -> None:
    told = faults(await post(contract, REGISTER, registration(ClientSecret=secret)))

    assert set(told) == {"ClientSecret"}
    (message,) = told["ClientSecret"]
    for word in ("lower", "upper", "number", "special", "32", "128"):
        assert word in message
    assert secret not in message


@pytest.mark.parametrize("secret", ["Aa1!" + "x" * 28, "Aa1!" + "x" * 124, "Aa1 !" + "ä" * 27])
async def test_secret_is_accepted_when_it_is_strong(contract: Server, secret: str) -> None:
    assert (await post(contract, REGISTER, registration(ClientSecret=secret))).status == 200


async def test_id_already_exists_when_another_client_has_it(contract: Server, client_id: str) -> None:
    told = faults(await post(contract, REGISTER, registration(ClientId=client_id)))

    assert set(told) == {"ClientId"}
    assert "already exists" in told["ClientId"][0]


@pytest.mark.parametrize("prefix", ["oidc:", "OIDC:"])
async def test_id_is_refused_when_it_looks_like_the_name_of_a_person(contract: Server, prefix: str) -> None:
    told = faults(await post(contract, REGISTER, registration(ClientId=f"{prefix}alice")))
    assert "must not begin with oidc:" in told["ClientId"][0]


async def test_all_rules_are_reported_together_when_the_id_exists_as_well(
    contract: Server, client_id: str
) -> None:
    told = faults(await post(contract, REGISTER, {"ClientId": client_id, "ClientSecret": "weak"}))

    assert set(told) == {"ClientId", "ClientSecret", "DisplayName"}
    assert "already exists" in told["ClientId"][0]


async def test_answer_is_empty_when_registration_is_switched_off(idle_settings: Settings) -> None:
    async with server.serving(idle_settings, ODS_REGISTRATION="false") as closed:
        for fields in (registration(), {}):
            answer = await post(closed, REGISTER, fields)
            assert (answer.status, answer.body) == (403, b"")
        assert (await post(closed, TOKEN, {})).status == 401


# Tokens.


def assert_granted(answer: ResponseModel) -> dict[str, Any]:
    issued: dict[str, Any] = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert issued["access_token"]
    assert issued["token_type"] == "Bearer"
    assert issued["expires_in"] == 1800
    assert isinstance(issued["expires_in"], int)
    return issued


async def test_token_opens_everything_below_v2_when_the_credentials_are_in_the_body(
    contract: Server, grant: dict[str, str]
) -> None:
    issued = assert_granted(await post(contract, TOKEN, grant))
    for scheme in ("Bearer", "bearer"):
        header = f"Authorization: {scheme} {issued['access_token']}"
        assert (await contract.ask("GET /v2/odsInstances", header)).status == 200


async def test_token_is_granted_when_the_credentials_come_by_http_basic(
    contract: Server, client_id: str
) -> None:
    fields = {"grant_type": "client_credentials", "scope": SCOPE}
    assert_granted(await post(contract, TOKEN, fields, basic(client_id, SECRET)))


@pytest.mark.parametrize("spelled", spellings(TOKEN))
async def test_token_is_granted_when_the_path_is_spelled_in_five_ways(
    contract: Server, grant: dict[str, str], spelled: str
) -> None:
    assert_granted(await post(contract, spelled, grant))


@pytest.mark.parametrize("change", [str.upper, str.title])
async def test_token_is_granted_when_names_of_fields_come_in_any_case(
    contract: Server, grant: dict[str, str], change: Callable[[str], str]
) -> None:
    assert_granted(await post(contract, TOKEN, {change(name): value for name, value in grant.items()}))


def assert_refused(answer: ResponseModel, status: int, error: str, description: str | None = None) -> None:
    refusal = answer.json()
    assert (answer.status, refusal["error"]) == (status, error)
    assert set(refusal) == {"error", "error_description"}
    assert refusal["error_description"] == description or (description is None)
    assert (answer.headers.get("www-authenticate") == "Bearer") is (status == 401)


@pytest.mark.parametrize("kind", ["password", "authorization_code", "CLIENT_CREDENTIALS", "", None])
async def test_access_is_denied_when_the_grant_type_is_another(
    contract: Server, grant: dict[str, str], kind: str | None
) -> None:
    asked = {name: value for name, value in (grant | {"grant_type": kind}).items() if value is not None}
    assert_refused(await post(contract, TOKEN, asked), 401, "invalid_client", DENIED)


@pytest.mark.parametrize(
    "changes",
    [
        *({"client_id": "unknown"}, {"client_id": "NUL \x00"}, {"client_id": "CLIENT"}),
        {"client_secret": f"{SECRET}x"},
    ],
)
async def test_access_is_denied_when_the_client_is_unknown_or_the_secret_wrong(
    contract: Server, grant: dict[str, str], changes: dict[str, str]
) -> None:
    answer = await post(contract, TOKEN, grant | changes)
    assert_refused(answer, 401, "invalid_client", DENIED)
    assert answer.headers["content-type"] == "application/json"


async def test_access_is_denied_and_the_scheme_named_when_http_basic_has_the_wrong_secret(
    contract: Server, client_id: str
) -> None:
    fields = {"grant_type": "client_credentials", "scope": SCOPE}
    answer = await post(contract, TOKEN, fields, basic(client_id, "wrong"))

    assert (answer.status, answer.json()["error_description"]) == (401, DENIED)
    assert answer.headers["www-authenticate"] == 'Bearer, Basic realm="connect"'


@pytest.mark.parametrize("secret", ["", " ", None])
async def test_request_is_invalid_when_the_secret_is_empty_or_missing(
    contract: Server, grant: dict[str, str], secret: str | None
) -> None:
    asked = {name: value for name, value in (grant | {"client_secret": secret}).items() if value is not None}
    assert_refused(await post(contract, TOKEN, asked), 400, "invalid_request")


async def test_request_is_invalid_when_the_client_is_missing(contract: Server, grant: dict[str, str]) -> None:
    del grant["client_id"]
    assert_refused(await post(contract, TOKEN, grant), 400, "invalid_request")


async def test_request_is_invalid_when_http_basic_has_no_secret(contract: Server, client_id: str) -> None:
    fields = {"grant_type": "client_credentials", "scope": SCOPE}
    assert_refused(await post(contract, TOKEN, fields, basic(client_id, "")), 400, "invalid_request")


@pytest.mark.parametrize("scope", ["another", f"{SCOPE}x", SCOPE.upper(), f"{SCOPE} another", "", None])
@pytest.mark.parametrize("secret", [SECRET, "wrong"])
async def test_scope_is_invalid_whatever_the_secret_when_it_is_unknown_or_missing(
    contract: Server, grant: dict[str, str], scope: str | None, secret: str
) -> None:
    changed = grant | {"scope": scope, "client_secret": secret}
    asked = {name: value for name, value in changed.items() if value is not None}
    answer = await post(contract, TOKEN, asked)

    assert_refused(answer, 400, "invalid_scope", BAD_SCOPE)
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize("path", [REGISTER, TOKEN])
async def test_content_type_is_refused_when_it_is_no_form(
    contract: Server, grant: dict[str, str], path: str
) -> None:
    body = json.dumps(grant).encode()
    answer = await contract.ask(f"POST {path}", "Content-Type: application/json", body=body)
    assert (answer.status, answer.headers["content-type"]) == (415, PROBLEM)
