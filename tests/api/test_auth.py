import base64
import json
import time
from typing import Any

import httpx
import jwt
import pytest
from pydantic import SecretStr

from api.security.tokens import FULL_ACCESS
from ods.settings.settings import Settings
from tests.api.service import bearer, tokens

ENDPOINTS = [
    ("GET", "/v2/dbInstances"),
    ("POST", "/v2/dbInstances"),
    ("GET", "/v2/dbInstances/1"),
    ("PUT", "/v2/dbInstances/1"),
    ("DELETE", "/v2/dbInstances/1"),
    ("POST", "/v2/dbInstances/1/retry"),
    ("GET", "/v2/odsInstances"),
    ("GET", "/v2/odsInstances/1"),
    ("GET", "/v2/jobs/CreateInstanceJob-1-1"),
    ("POST", "/v2/sweep"),
    ("GET", "/v2/spares"),
    ("POST", "/v2/spares/refill"),
    ("GET", "/v2/audit"),
    ("GET", "/v2"),
    ("GET", "/v2/"),
    ("GET", "/v2/nowhere"),
    ("PUT", "/v2/dbInstances"),
]


def assert_unauthorized(answer: httpx.Response) -> None:
    assert answer.status_code == 401
    assert answer.content == b""
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}])
async def test_request_is_unauthorized_when_it_brings_no_valid_token(
    idle_stranger: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    assert_unauthorized(await idle_stranger.request(method, path, headers=headers))


async def test_request_is_unauthorized_before_its_content_is_judged(idle_stranger: httpx.AsyncClient) -> None:
    assert_unauthorized(
        await idle_stranger.post("/v2/dbInstances", content=b"{", headers={"Content-Type": "x"})
    )
    assert_unauthorized(await idle_stranger.get("/v2/dbInstances?offset=-1"))


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer a.b.c",
        "Bearer " + base64.b64encode(b"[" * 40_000).decode() + ".e30.x",
    ],
)
async def test_request_is_unauthorized_when_the_header_is_malformed(
    idle_stranger: httpx.AsyncClient, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    assert_unauthorized(await idle_stranger.get("/v2/dbInstances", headers=headers))


def token(settings: Settings, key: bytes | None = None, algorithm: str = "HS256", **changes: object) -> str:
    """A valid token with `changes`; a claim that becomes None is left out."""
    signing_key = base64.b64decode(settings.token_signing_key.get_secret_value())
    issued = tokens(settings).issue("a-client")
    claims = jwt.decode(issued, options={"verify_signature": False})
    changed = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(changed, signing_key if key is None else key, algorithm)


async def get(client: httpx.AsyncClient, bearer_token: str) -> httpx.Response:
    return await client.get("/v2/dbInstances", headers={"Authorization": f"Bearer {bearer_token}"})


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"another key, of thirty-two bytes"},
        {"iss": "another issuer"},
        {"aud": "something else"},
        {"exp": 1},
        *({claim: None} for claim in ("iss", "aud", "sub", "scope", "iat", "exp", "tenant")),
    ],
)
async def test_request_is_unauthorized_when_the_token_is_not_ours_or_too_old(
    idle_stranger: httpx.AsyncClient, idle_settings: Settings, changes: dict[str, Any]
) -> None:
    assert (await get(idle_stranger, token(idle_settings))).status_code == 200
    assert_unauthorized(await get(idle_stranger, token(idle_settings, **changes)))


async def test_token_of_a_previous_key_is_valid_and_new_ones_have_the_current_key_when_keys_were_rotated(
    idle_settings: Settings,
) -> None:
    old, new = bytes([1]) * 32, bytes([2]) * 32
    keys = {"token_signing_key": SecretStr(base64.b64encode(new).decode())}
    before = idle_settings.model_copy(update={"token_signing_key": SecretStr(base64.b64encode(old).decode())})
    after = idle_settings.model_copy(
        update=keys | {"token_signing_key_previous": SecretStr(base64.b64encode(old).decode())}
    )
    removed = idle_settings.model_copy(update=keys)
    earlier, later = tokens(before).issue("me"), tokens(after).issue("me")
    valid = {
        name: [await tokens(settings).verify(token) is not None for token in (earlier, later)]
        for name, settings in {"before": before, "after": after, "removed": removed}.items()
    }
    assert valid == {"before": [True, False], "after": [True, True], "removed": [False, True]}


@pytest.mark.parametrize(("difference", "told"), [(3, 200), (30, 401)])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_token_is_judged_with_some_seconds_to_spare_when_clocks_differ(
    idle_stranger: httpx.AsyncClient, idle_settings: Settings, claim: str, difference: int, told: int
) -> None:
    at = int(time.time()) + (-difference if claim == "exp" else difference)
    changes: dict[str, Any] = {claim: at}
    assert (await get(idle_stranger, token(idle_settings, **changes))).status_code == told


async def test_request_is_unauthorized_when_the_token_is_not_signed(
    idle_stranger: httpx.AsyncClient, idle_settings: Settings
) -> None:
    _, claims, signature = token(idle_settings).split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")

    assert_unauthorized(await get(idle_stranger, f"{header}.{claims}."))
    assert_unauthorized(await get(idle_stranger, f"{header}.{claims}.{signature}"))


@pytest.mark.parametrize("scope", ["", "another/scope", FULL_ACCESS + "x"])
async def test_request_is_forbidden_when_the_token_has_not_the_scope(
    idle_stranger: httpx.AsyncClient, idle_settings: Settings, scope: str
) -> None:
    answer = await get(idle_stranger, token(idle_settings, scope=scope))

    assert answer.status_code == 403
    assert answer.content == b""


async def test_unknown_path_and_verb_are_told_when_the_token_is_valid(
    idle_stranger: httpx.AsyncClient, idle_settings: Settings
) -> None:
    headers = bearer(idle_settings)
    assert (await idle_stranger.get("/v2/nowhere", headers=headers)).status_code == 404
    assert (await idle_stranger.put("/v2/dbInstances", headers=headers)).status_code == 405
