"""Tokens of an external issuer, which is a real HTTP server here."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from api.http.problems import ProblemError
from api.security import oidc
from api.security.oidc import IssuerKeys
from api.security.tokens import FULL_ACCESS, READ_ONLY
from ods.cli.client import AdminApi
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api import server
from tests.api.issuer import (
    DISCOVERY,
    EC,
    ED25519,
    KEYS,
    RSA,
    TOKEN,
    Issuer,
    encoded,
    published,
    resigned,
    resigned_with_the_public_key,
    unsigned,
)
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import make_tenant_settings

Forge = Callable[[Issuer], str]


@pytest.fixture
def issuer(power: ExitStack) -> Issuer:
    started = Issuer()
    power.enter_context(started.serving())
    return started


@pytest.fixture
async def client(idle_settings: Settings, issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that trusts the issuer."""
    trusting = idle_settings.model_copy(update={"oidc_issuer": issuer.url, "oidc_insecure": True})
    async with running(trusting, NOBODY) as app, client_of(app) as client:
        yield client


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/v2/odsInstances", headers={"Authorization": f"Bearer {token}"})


async def status(client: httpx.AsyncClient, token: str) -> int:
    return (await ask(client, token)).status_code


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "The issuer of the tokens cannot be reached"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        (EC, "ES256"),
        (ED25519, "EdDSA"),
    ],
)
async def test_token_is_accepted_when_a_published_key_has_signed_it(
    client: httpx.AsyncClient, issuer: Issuer, key: Any, algorithm: str
) -> None:
    issuer.publish(published(key, algorithm))
    assert await status(client, issuer.token(key, algorithm)) == 200


async def test_token_is_accepted_when_its_key_says_what_it_is_for(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    issuer.publish(published(RSA, "PS256", alg="PS256", use="sig"))
    assert await status(client, issuer.token(RSA, "PS256")) == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": FULL_ACCESS},
        {"scope": None, "scp": f"openid {FULL_ACCESS}"},
        {"scope": None, "scp": ["openid", FULL_ACCESS]},
        {"scope": "openid", "scp": [FULL_ACCESS]},
        {"aud": ["account", "edfi_admin_api"]},
        {"header": {"kid": None}},  # there is only one key
    ],
)
async def test_token_is_accepted_when_its_claims_are_written_in_another_way(
    client: httpx.AsyncClient, issuer: Issuer, claims: dict[str, Any]
) -> None:
    assert await status(client, issuer.token(**claims)) == 200


async def test_token_is_accepted_when_the_clocks_differ_by_seconds(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    now = time.time()
    assert await status(client, issuer.token(exp=now - 10, nbf=now + 10, iat=now + 10)) == 200


@pytest.mark.parametrize("scope", [None, "", "another/scope", f"{FULL_ACCESS}x", 1, {FULL_ACCESS: 1}])
async def test_request_is_forbidden_when_the_token_has_not_the_scope(
    client: httpx.AsyncClient, issuer: Issuer, scope: object
) -> None:
    answer = await ask(client, issuer.token(scope=scope))
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"nbf": 2**40},
        {"sub": None},
        {"sub": 1},
        {"key": rsa.generate_private_key(65537, 2048)},
        {"key": EC, "algorithm": "ES256"},
        {"header": {"kid": "another"}},
    ],
)
async def test_request_is_unauthorized_when_the_token_is_not_the_issuers_or_not_for_us(
    client: httpx.AsyncClient, issuer: Issuer, changes: dict[str, Any]
) -> None:
    answer = await ask(client, issuer.token(**changes))

    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def without_a_signature(issuer: Issuer) -> str:
    return unsigned(issuer.token())


def signed_with_the_public_key(issuer: Issuer) -> str:
    return resigned_with_the_public_key(issuer.token())


def signed_with_a_published_secret(issuer: Issuer) -> str:
    secret = b"a secret of thirty-two bytes, no more"
    issuer.publish({"kty": "oct", "kid": "a-key", "k": encoded(secret)})
    return issuer.token(secret, "HS256")


def signed_with_a_key_for_encryption(issuer: Issuer) -> str:
    issuer.publish(published(RSA, "RS256", use="enc"))
    return issuer.token()


def signed_in_another_way_than_the_key_allows(issuer: Issuer) -> str:
    issuer.publish(published(RSA, "RS256", alg="PS256"))
    return issuer.token()


def signed_on_another_curve(issuer: Issuer) -> str:
    issuer.publish(published(EC, "ES256") | {"crv": "P-384"})
    return issuer.token(EC, "ES256")


def signed_with_a_weak_key(issuer: Issuer) -> str:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    issuer.publish(published(weak, "RS256"))
    return resigned(issuer.token(), "RS256", lambda content: weak.sign(content, PKCS1v15(), SHA256()))


def signed_with_a_malformed_key(issuer: Issuer) -> str:
    issuer.publish({"kty": "RSA", "kid": "a-key", "n": "!", "e": 1})
    return issuer.token()


def signed_with_half_a_key(issuer: Issuer) -> str:
    issuer.publish({"kty": "RSA", "kid": "a-key", "e": ["AQAB"]})
    return issuer.token()


def without_a_name_of_the_key_when_there_are_two(issuer: Issuer) -> str:
    issuer.publish(published(RSA, "RS256"), published(rsa.generate_private_key(65537, 2048), "RS256", "b"))
    return issuer.token(header={"kid": None})


@pytest.mark.parametrize(
    "forge",
    [
        without_a_signature,
        signed_with_the_public_key,
        signed_with_a_published_secret,
        signed_with_a_key_for_encryption,
        signed_in_another_way_than_the_key_allows,
        signed_on_another_curve,
        signed_with_a_weak_key,
        signed_with_a_malformed_key,
        signed_with_half_a_key,
        without_a_name_of_the_key_when_there_are_two,
    ],
)
async def test_request_is_unauthorized_when_the_signature_proves_nothing(
    client: httpx.AsyncClient, issuer: Issuer, forge: Forge
) -> None:
    assert await status(client, forge(issuer)) == 401


async def test_request_is_unauthorized_when_the_token_is_nonsense_or_our_own(
    client: httpx.AsyncClient, issuer: Issuer, idle_settings: Settings
) -> None:
    own = bearer(idle_settings)["Authorization"].removeprefix("Bearer ")
    deep = f"{encoded(b'[' * 40_000)}.e30.x"
    for token in ("", "x", "a.b.c", deep, own):
        assert await status(client, token) == 401
    assert issuer.asked == []  # what cannot be the issuer's is none of its business


@pytest.mark.parametrize("claim", ["scope", "scp"])
async def test_only_reading_is_allowed_when_the_issuer_grants_no_more(
    client: httpx.AsyncClient, issuer: Issuer, claim: str
) -> None:
    changes: dict[str, Any] = {"scope": None, claim: f"openid {READ_ONLY}"}
    token = issuer.token(**changes)
    assert await status(client, token) == 200
    answer = await client.post("/v2/sweep", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize("claim", ["scope", "scp"])
@pytest.mark.parametrize("access", [FULL_ACCESS, READ_ONLY])
async def test_backups_are_downloaded_when_the_issuer_grants_that_beside_access(
    client: httpx.AsyncClient, issuer: Issuer, claim: str, access: str
) -> None:
    for scope, expected in ((access, 403), (f"{access} {BACKUP_DOWNLOAD}", 404)):
        changes: dict[str, Any] = {"scope": None, claim: scope}
        headers = {"Authorization": f"Bearer {issuer.token(**changes)}"}
        answer = await client.get(f"/v2/backups/{uuid4()}/dump", headers=headers)
        assert answer.status_code == expected


async def test_keys_are_fetched_once_when_many_requests_come_at_once(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    assert await asyncio.gather(*(status(client, issuer.token()) for _ in range(20))) == [200] * 20
    assert await status(client, issuer.token()) == 200
    assert issuer.asked == [DISCOVERY, KEYS]


async def test_discovery_is_not_asked_when_the_address_of_the_keys_is_configured(
    idle_settings: Settings, issuer: Issuer
) -> None:
    addresses = {
        "oidc_issuer": issuer.url,
        "oidc_jwks_url": issuer.documents.pop(DISCOVERY)["jwks_uri"],
        "oidc_insecure": True,
    }
    async with (
        running(idle_settings.model_copy(update=addresses), NOBODY) as app,
        client_of(app) as client,
    ):
        assert await status(client, issuer.token()) == 200
    assert issuer.asked == [KEYS]


async def test_token_is_accepted_at_once_when_the_issuer_has_a_new_key(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    assert await status(client, issuer.token()) == 200
    issuer.publish(published(RSA, "RS256"), published(EC, "ES256", "new"))
    assert await status(client, issuer.token(EC, "ES256", {"kid": "new"})) == 200
    assert await status(client, issuer.token()) == 200


async def test_issuer_is_asked_seldom_when_many_tokens_name_keys_that_it_has_not(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    told = [await status(client, issuer.token(header={"kid": f"unknown {n}"})) for n in range(50)]
    assert set(told) == {401}
    assert issuer.asked.count(KEYS) <= 4
    assert await status(client, issuer.token()) == 200


async def test_token_is_refused_when_its_key_was_withdrawn_some_time_ago(
    client: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status(client, issuer.token()) == 200
    issuer.publish(published(EC, "ES256", "new"))
    assert await status(client, issuer.token()) == 200
    monkeypatch.setattr(oidc, "monotonic", lambda: time.monotonic() + 601)
    assert await status(client, issuer.token()) == 401


async def test_service_is_unavailable_when_the_issuer_was_never_there(
    client: httpx.AsyncClient, issuer: Issuer, power: ExitStack
) -> None:
    power.close()
    for _ in range(10):
        assert_unavailable(await ask(client, issuer.token()))


async def test_known_keys_count_for_a_while_when_the_issuer_goes_away(
    client: httpx.AsyncClient, issuer: Issuer, power: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status(client, issuer.token()) == 200
    power.close()
    assert await status(client, issuer.token()) == 200
    assert_unavailable(await ask(client, issuer.token(header={"kid": "unknown"})))
    monkeypatch.setattr(oidc, "monotonic", lambda: time.monotonic() + 3599)
    assert await status(client, issuer.token()) == 200
    monkeypatch.setattr(oidc, "monotonic", lambda: time.monotonic() + 3601)
    assert_unavailable(await ask(client, issuer.token()))


async def test_no_request_waits_again_when_the_issuer_has_failed_and_the_key_is_known(
    client: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status(client, issuer.token()) == 200
    monkeypatch.setattr(oidc, "monotonic", lambda: time.monotonic() + 601)
    issuer.documents[KEYS] = None
    assert await status(client, issuer.token()) == 200
    issuer.delay = 4
    async with asyncio.timeout(3):
        assert await status(client, issuer.token()) == 200


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (DISCOVERY, None),
        (DISCOVERY, b"{"),
        (DISCOVERY, []),
        (DISCOVERY, {}),
        (DISCOVERY, {"issuer": "https://login.example", "jwks_uri": "https://login.example/keys"}),
        (KEYS, None),
        (KEYS, b"\xff"),
        (KEYS, b"[" * 100_000),
        (KEYS, []),
        (KEYS, {"keys": "none"}),
        (DISCOVERY, b" " * 1_100_000 + b"{}"),
        (KEYS, json.dumps({"keys": [published(RSA, "RS256")], "more": "x" * 1_100_000}).encode()),
    ],
)
async def test_service_is_unavailable_until_the_issuer_publishes_what_it_should(
    client: httpx.AsyncClient, issuer: Issuer, path: str, document: object
) -> None:
    right, issuer.documents[path] = issuer.documents[path], document
    assert_unavailable(await ask(client, issuer.token()))
    issuer.documents[path] = right
    assert await status(client, issuer.token()) == 200


@pytest.mark.parametrize(
    "address", ["", "nonsense", "ftp://127.0.0.1/keys", "http://[", "http://127.0.0.1:1"]
)
async def test_service_is_unavailable_when_the_address_of_the_keys_is_impossible(
    client: httpx.AsyncClient, issuer: Issuer, address: str
) -> None:
    issuer.documents[DISCOVERY]["jwks_uri"] = address
    assert_unavailable(await ask(client, issuer.token()))


async def test_keys_are_not_fetched_without_tls_when_only_the_issuer_has_it(
    idle_settings: Settings, issuer: Issuer
) -> None:
    keys = IssuerKeys(issuer.url, issuer.documents[DISCOVERY]["jwks_uri"], insecure=False)
    with pytest.raises(ProblemError):
        await keys.find("a-key", "RS256")
    assert issuer.asked == []


async def test_reading_ends_early_when_a_document_has_no_end(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    issuer.documents[KEYS] = b" " * 50_000_000
    tracemalloc.start()
    assert_unavailable(await ask(client, issuer.token()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


@pytest.mark.timed
async def test_service_is_unavailable_soon_when_the_issuer_does_not_answer(
    client: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "_TIMEOUT_SECONDS", 0.1)
    issuer.delay = 0.5
    started = time.monotonic()
    answers = await asyncio.gather(*(ask(client, issuer.token()) for _ in range(10)))
    assert time.monotonic() - started < 0.5
    for answer in answers:
        assert_unavailable(answer)


async def test_our_own_tokens_cannot_be_had_when_there_is_an_issuer(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]
    for path in ("/connect/register", "/connect/token"):
        assert (await client.post(path, data={})).status_code == 404
        assert path not in described


async def test_client_is_written_to_the_trail_when_its_token_is_the_issuers(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    headers = {"Authorization": f"Bearer {issuer.token(sub='known-to-the-issuer')}"}
    await client.delete("/v2/dbInstances/0", headers=headers)
    (entry,) = (await client.get("/v2/audit", params={"limit": 1}, headers=headers)).json()
    assert entry["client"] == "known-to-the-issuer"


async def test_command_line_uses_the_issuers_token_when_it_is_told_where_to_get_one(
    idle_settings: Settings, issuer: Issuer
) -> None:
    def names() -> list[str]:
        with AdminApi(
            serving.url, "a-service", "its secret", f"http://127.0.0.1:{issuer.port}{TOKEN}"
        ) as api:
            return [row["name"] for row in api.instances()]

    async with server.serving(idle_settings, ODS_OIDC_ISSUER=issuer.url, ODS_OIDC_INSECURE="true") as serving:
        assert await asyncio.to_thread(names) == []


@pytest.mark.parametrize(
    ("claim", "told"), [("tenant1", 200), ("TENANT1", 200), ("tenant2", 401), (None, 401), (["tenant1"], 401)]
)
async def test_token_is_good_for_the_tenant_that_it_names_when_there_are_several(
    idle_settings: Settings, issuer: Issuer, claim: object, told: int
) -> None:
    several = make_tenant_settings({"tenant1": idle_settings}, oidc_issuer=issuer.url, oidc_insecure=True)
    async with running(several, NOBODY) as app, client_of(app, headers={"tenant": "Tenant1"}) as client:
        assert await status(client, issuer.token(tenant=claim)) == told


async def test_token_without_a_tenant_is_refused_when_there_are_several(
    idle_settings: Settings, issuer: Issuer
) -> None:
    several = make_tenant_settings(
        {DEFAULT_TENANT: idle_settings}, oidc_issuer=issuer.url, oidc_insecure=True
    )
    async with running(several, NOBODY) as app, client_of(app, headers={"tenant": DEFAULT_TENANT}) as client:
        assert await status(client, issuer.token()) == 401
        assert await status(client, issuer.token(tenant=DEFAULT_TENANT)) == 200


@pytest.mark.parametrize(
    ("type_", "told"),
    [  # a header with an empty one is sent without it
        *((name, 200) for name in ("at+jwt", "JWT", "jwt", "AT+JWT", "application/at+jwt")),
        *((name, 401) for name in ("", "logout+jwt", "dpop+jwt", "id+jwt", "jose", 1)),
    ],
)
async def test_token_is_refused_when_its_header_does_not_say_that_it_is_an_access_token(
    client: httpx.AsyncClient, issuer: Issuer, type_: Any, told: int
) -> None:
    assert await status(client, issuer.token(header={"typ": type_})) == told
