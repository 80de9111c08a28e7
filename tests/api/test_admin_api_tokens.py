"""Tokens of an Admin API on the same registry: which count, for whom, and for what.

The matrix asks every protected endpoint of the route table with each kind of token. What is behind them is in
`test_access_matrix.py`.
"""

import base64
import hmac
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest

from api.security.tokens import FULL_ACCESS, READ_ONLY
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.clients.administration import ClientAdministration, NewClient
from ods.registry.clients.credentials import BACKUP_DOWNLOAD, LEEWAY_SECONDS
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import DEFAULT_TENANT, AnySettings, Settings
from tests import registries
from tests.api.admin_api_tokens import (
    ADMIN_API_ISSUER,
    ADMIN_API_KEY,
    admin_api_settings,
    admin_api_token,
)
from tests.api.issuer import RSA, Issuer, encoded, resigned, resigned_with_the_public_key, unsigned
from tests.api.service import NOBODY, client_of, running, tokens
from tests.api.test_access_matrix import (
    CLIENTS,
    FORBIDDEN,
    KINDS,
    OTHER,
    OWN,
    PAYLOAD_KEY,
    Site,
    class_of,
    listed,
    site_of,
)
from tests.servers import TOKEN_KEY, make_settings, make_tenant_settings, session

FORMER_KEY = base64.b64encode(bytes(range(50, 82))).decode()
"""Of the Admin API, before it got another one; in the list."""
REMOVED_KEY = base64.b64encode(bytes(range(150, 182))).decode()
"""The one before that; no longer in the list."""
PROTECTED = [
    kind for kind in KINDS if "expired" in KINDS[kind] and kind not in {"public", "codec's preflight"}
]
NO_SCOPE = "without a scope that is known"
REFUSED, READS, CHANGES, EVERYTHING = "none", "read only", "full access without downloads", "full access"
"""Whom a token makes its bearer, by the names of the matrix."""

MORE_CLIENTS = """
INSERT INTO adminapi.applications (clientid, scope, enabled, expiresat, permissions, backupdownload) VALUES
    ('archive', 'full_access', true, NULL, NULL, true),
    ('app', 'full_access', true, NULL, '["ept:token", "scp:edfi_admin_api/full_access"]', NULL),
    ('less', 'full_access', true, NULL, '["ept:token", "scp:edfi_admin_api/tenant_access"]', NULL),
    ('over', 'full_access', true, timezone('utc', now()), NULL, NULL),
    ('oidc:alice', 'full_access', true, NULL, NULL, NULL);
INSERT INTO adminapi.applications (clientid, generation) VALUES ('undecided', NULL)
"""
ONLY_HERE = "INSERT INTO adminapi.applications (clientid, enabled) VALUES ('in both', {}), ('only {}', true)"

Make = Callable[[AnySettings, str], str]
"""A token, from the settings of the service and the tenant that the requests name."""


def given(client: str = "app", **changes: Any) -> Make:
    """What the Admin API gives to a client, with `changes`."""
    return lambda _, __: admin_api_token(client, **changes)


def without(claim: str) -> Make:
    changes: dict[str, Any] = {claim: None}
    return given(**changes)


def ours(**changes: Any) -> Make:
    """Our own token, with other claims, signed by the Admin API."""

    def make(settings: AnySettings, tenant: str) -> str:
        claims = jwt.decode(tokens(settings, 3600, tenant).issue("app"), options={"verify_signature": False})
        return admin_api_token("app", **(claims | {"issuer": claims.pop("iss")} | changes))

    return make


def forged(forge: Callable[[str], str]) -> Make:
    return lambda _, __: forge(admin_api_token("app"))


def hmac_as_rsa(token: str) -> str:
    """Signed with the shared key, as if it were a public one."""
    key = base64.b64decode(ADMIN_API_KEY)
    return resigned(token, "RS256", lambda content: hmac.digest(key, content, "sha256"))


def with_rsa(token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, RSA, "RS256", {"typ": "at+jwt"})


def now(seconds: int) -> int:
    return int(time.time()) + seconds


MADE: Mapping[str, tuple[Make, str]] = {
    "ours": (lambda settings, tenant: tokens(settings, 3600, tenant).issue("full access"), EVERYTHING),
    "ours, of a client of which no operator said that it may download": (
        lambda settings, tenant: tokens(settings, 3600, tenant).issue("undecided"),
        REFUSED,
    ),
    "ours without downloads, of a client of which no operator said it": (
        lambda settings, tenant: tokens(settings, 3600, tenant).issue("undecided", FULL_ACCESS),
        CHANGES,
    ),
    "of the Admin API": (given(), CHANGES),
    "of a client that was added here": (given("full access"), EVERYTHING),
    "of a client that may download": (given("archive"), EVERYTHING),
    "of a client from which downloads are withheld": (given("full access without downloads"), CHANGES),
    "of a client that may only read": (given("read only"), READS),
    "of a client that may only read and download": (
        given("read only with downloads"),
        "read only with downloads",
    ),
    "for reading": (given(scope=READ_ONLY), READS),
    "for reading, of a client that may download": (given("archive", scope=READ_ONLY), READS),
    "for downloads, of a client that may": (
        given("archive", scope=f"{READ_ONLY} {BACKUP_DOWNLOAD}"),
        "read only with downloads",
    ),
    "for downloads, of a client of which no operator said it": (
        given(scope=f"{FULL_ACCESS} {BACKUP_DOWNLOAD}"),
        CHANGES,
    ),
    "with a list of scopes": (given(scope=["openid", FULL_ACCESS]), CHANGES),
    "with further scopes": (given(scope=f"openid {FULL_ACCESS}"), CHANGES),
    "signed with the former key": (given(key=FORMER_KEY), CHANGES),
    "of a client that another tenant has disabled": (given("in both"), CHANGES),
    "with a claim of another tenant": (given(tenant=OTHER), CHANGES),
    "with the longer name of the type": (given(header={"typ": "application/AT+JWT"}), CHANGES),
    "without a scope": (given(scope=None), NO_SCOPE),
    "of an unknown scope": (given(scope="edfi_admin_api/tenant_access"), NO_SCOPE),
    "of a longer scope": (given(scope=f"{FULL_ACCESS}x"), NO_SCOPE),
    "for downloads alone": (given("archive", scope=BACKUP_DOWNLOAD), NO_SCOPE),
    "with the scope in another claim": (given(scope=None, scp=FULL_ACCESS), NO_SCOPE),
    "signed with a key that was removed": (given(key=REMOVED_KEY), REFUSED),
    "expired": (given(expires_in=-6), REFUSED),
    "not valid yet": (given(nbf=now(3600)), REFUSED),
    "issued in the future": (given(iat=now(3600)), REFUSED),
    **{f"without {claim}": (without(claim), REFUSED) for claim in ("iss", "sub", "iat", "exp")},
    **{f"with the audience {aud}": (given(aud=aud), REFUSED) for aud in ("edfi_admin_api", "", (), 0)},
    "of the type JWT": (given(header={"typ": "JWT"}), REFUSED),
    "with a number for a client": (given(sub=1), REFUSED),
    "with a client that no column holds": (given("a\0b"), REFUSED),
    "of a person": (given("oidc:alice"), REFUSED),
    "of a disabled client": (given("of a disabled client"), REFUSED),
    "of a client that has ended": (given("over"), REFUSED),
    "of a client that the Admin API permits less": (given("less"), REFUSED),
    "of a client that is not there": (given("nowhere"), REFUSED),
    "of another tenant's client": (given(f"only {OTHER}"), REFUSED),
    "of another tenant's client with a claim": (given(f"only {OTHER}", tenant=OTHER), REFUSED),
    "of another issuer": (given(issuer="http://another.example/"), REFUSED),
    "of an issuer that begins like it": (given(issuer=f"{ADMIN_API_ISSUER}x"), REFUSED),
    "of a list of issuers": (given(iss=[ADMIN_API_ISSUER]), REFUSED),
    "our issuer, signed with the Admin API's key": (given(issuer="ods-instance-management"), REFUSED),
    "our own claims, signed with the Admin API's key": (ours(), REFUSED),
    "the Admin API's issuer, signed with our key": (given(key=TOKEN_KEY), REFUSED),
    "our own claims, the Admin API's issuer": (ours(issuer=ADMIN_API_ISSUER), REFUSED),
    "our own claims, the Admin API's issuer, our key": (
        ours(issuer=ADMIN_API_ISSUER, key=TOKEN_KEY),
        REFUSED,
    ),
    "without a signature": (forged(unsigned), REFUSED),
    "RS256, signed with the shared key": (forged(hmac_as_rsa), REFUSED),
    "RS256, signed with another key": (forged(with_rsa), REFUSED),
    "HS256, signed with a public key": (forged(resigned_with_the_public_key), REFUSED),
    "of another type": (given(header={"typ": "logout+jwt"}), REFUSED),
    "without a type": (given(header={"typ": ""}), REFUSED),
    "nested deeply": (lambda _, __: f"{encoded(b'{}')}.{encoded(b'[' * 40_000)}.x", REFUSED),
}


@pytest.fixture(scope="module")
async def tenants(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[dict[str, Settings]]:
    """The settings of two tenants, each with its clients."""
    keys = admin_api_settings(admin_api_signing_key=f"{ADMIN_API_KEY}, {FORMER_KEY}")
    async with AsyncExitStack() as stack:
        settings = {}
        for name in (OWN, OTHER):
            dsn = await stack.enter_async_context(registries.cloned(prepared_postgres))
            async with session(dsn) as registry:
                await registry.execute(CLIENTS)
                await registry.execute(MORE_CLIENTS)
                await registry.execute(ONLY_HERE.format(name == OWN, name))
            settings[name] = make_settings(prepared_postgres, dsn, rate_limiting=False, **keys)
        yield settings


@pytest.fixture(scope="module")
async def site(tenants: dict[str, Settings]) -> AsyncIterator[Site]:
    """The API of the two tenants."""
    async with site_of(make_tenant_settings(tenants), OWN) as site:
        yield site


@pytest.fixture(scope="module")
async def single_site(
    prepared_postgres: EmbeddedPostgres, tenants: dict[str, Settings]
) -> AsyncIterator[Site]:
    """The API of one tenant, with the codec server."""
    changes = {"codec_server": True, "payload_key": PAYLOAD_KEY}
    dsn = tenants[OWN].admin_dsn.get_secret_value()
    keys = {"admin_api_signing_key": tenants[OWN].admin_api_signing_key}
    settings = make_settings(
        prepared_postgres, dsn, rate_limiting=False, **admin_api_settings(**keys, **changes)
    )
    async with site_of(settings, DEFAULT_TENANT) as site:
        yield site


async def told_by(site: Site, kind: str, made: Mapping[str, tuple[Make, str]]) -> dict[str, dict[str, str]]:
    """What each endpoint of the kind has answered, where it is not what the matrix says of the bearer."""
    wrong: dict[str, dict[str, str]] = {}
    for name, (make, bearer) in made.items():
        token = make(site.settings, site.own)
        expected = FORBIDDEN if bearer == NO_SCOPE else KINDS[kind][bearer]
        for endpoint in listed(kind):
            told = class_of(await site.answer_to(endpoint, token))
            if told != expected:
                wrong.setdefault(name, {})[endpoint] = told
    return wrong


@pytest.mark.parametrize("kind", PROTECTED)
async def test_bearer_is_answered_as_the_client_may_when_it_has_a_token(
    site: Site, single_site: Site, kind: str
) -> None:
    assert await told_by(single_site if kind == "codec" else site, kind, MADE) == {}


async def test_tenant_is_the_one_that_is_configured_when_there_is_one(single_site: Site) -> None:
    made = {name: it for name, it in MADE.items() if not name.startswith("ours")}
    assert await told_by(single_site, "read", made) == {}


async def test_client_counts_for_the_tenant_that_the_request_names_when_two_have_its_id(site: Site) -> None:
    clients = ("in both", f"only {OWN}", f"only {OTHER}")
    told = {}
    for tenant in (OWN, OTHER, OWN.upper(), "nowhere"):
        headers = {"tenant": tenant}
        tokens_of = [{"Authorization": f"Bearer {admin_api_token(client)}"} for client in clients]
        answers = [await site.http.get("/v2/trash", headers=headers | one) for one in tokens_of]
        told[tenant] = [answer.status_code for answer in answers]
    assert told == {
        OWN: [200, 200, 401],
        OTHER: [401, 401, 200],
        OWN.upper(): [200, 200, 401],
        "nowhere": [400, 400, 400],
    }


# With another issuer.


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    started = Issuer()
    with started.serving():
        yield started


@pytest.fixture(scope="module")
async def issuer_site(tenants: dict[str, Settings], issuer: Issuer) -> AsyncIterator[Site]:
    """The API of the two tenants, which accepts the tokens of an OpenID Connect issuer instead of ours."""
    settings = make_tenant_settings(tenants, oidc_issuer=issuer.url, oidc_insecure=True)
    async with site_of(settings, OWN) as site:
        yield site


@pytest.mark.parametrize("kind", [kind for kind in PROTECTED if kind != "codec"])
async def test_each_issuer_has_its_own_keys_when_there_is_another_one(
    issuer_site: Site, issuer: Issuer, kind: str
) -> None:
    of_issuer = issuer.token(tenant=OWN)
    secret = base64.b64decode(ADMIN_API_KEY)
    made: dict[str, tuple[Make, str]] = {
        **MADE,
        **{name: (make, REFUSED) for name, (make, _) in MADE.items() if name.startswith("ours")},
        "the issuer's": (lambda _, __: of_issuer, CHANGES),
        "the issuer's, signed with its public key": (
            lambda _, __: resigned_with_the_public_key(of_issuer),
            REFUSED,
        ),
        "the issuer's, signed with the Admin API's key": (
            lambda _, __: issuer.token(secret, "HS256", tenant=OWN),
            REFUSED,
        ),
        "the Admin API's issuer, signed by the issuer": (
            lambda _, __: issuer.token(tenant=OWN, iss=ADMIN_API_ISSUER, sub="app"),
            REFUSED,
        ),
        "the Admin API's claims, signed by the issuer": (
            lambda _, __: issuer.token(tenant=OWN, iss=ADMIN_API_ISSUER, sub="app", aud=None, iat=now(0)),
            REFUSED,
        ),
        "the issuer's claims, signed by the Admin API": (
            given(issuer=issuer.url, aud="edfi_admin_api", tenant=OWN),
            REFUSED,
        ),
    }
    assert await told_by(issuer_site, kind, made) == {}


# What changes.


@asynccontextmanager
async def served(server: EmbeddedPostgres, registry: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = make_settings(server, registry, rate_limiting=False, **admin_api_settings())
    async with running(settings, NOBODY) as app, client_of(app) as client:
        yield client


@pytest.fixture
async def api(prepared_postgres: EmbeddedPostgres, registry_dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that accepts these tokens."""
    async with served(prepared_postgres, registry_dsn) as client:
        yield client


@pytest.fixture
async def operator(registry_dsn: str) -> AsyncIterator[ClientAdministration]:
    """The operator; an Admin API has added a client."""
    async with session(registry_dsn) as registry:
        await registry.execute("INSERT INTO adminapi.applications (clientid) VALUES ('app')")
    engine = create_registry_engine(registry_dsn)
    yield ClientAdministration(engine, "an operator", shared=True)
    await engine.dispose()


async def status(api: httpx.AsyncClient, token: str, method: str = "GET", path: str = "/v2/trash") -> int:
    return (await api.request(method, path, headers={"Authorization": f"Bearer {token}"})).status_code


async def counts_again(api: httpx.AsyncClient) -> bool:
    """Whether a new token counts, which the Admin API gives when its clock has gone on."""
    return await status(api, admin_api_token("app")) == 200


CHANGED: Mapping[str, Callable[[ClientAdministration], Any]] = {
    "disabled": lambda operator: operator.disable("app"),
    "rotated": lambda operator: operator.rotate("app", "another"),
    "removed": lambda operator: operator.remove("app"),
}


@pytest.mark.parametrize("change", CHANGED)
async def test_token_is_refused_by_every_process_within_5_s_and_for_good_when_its_client_was(
    prepared_postgres: EmbeddedPostgres,
    registry_dsn: str,
    api: httpx.AsyncClient,
    operator: ClientAdministration,
    change: str,
) -> None:
    token = admin_api_token("app")
    early = admin_api_token("app", iat=now(-60))
    async with served(prepared_postgres, registry_dsn) as other:
        assert [await status(one, token) for one in (api, other)] == [200, 200]
        assert await status(api, early) == 401  # from before its client was there
        await CHANGED[change](operator)
        ahead = admin_api_token("app", iat=now(LEEWAY_SECONDS))

        async def are_refused() -> bool:
            return [await status(one, token) for one in (api, other)] == [401, 401]

        await wait_until(are_refused, 5)
    if change == "removed":
        await operator.add(NewClient("app", "Another app"), "no hash")
    else:
        await operator.enable("app")
    await wait_until(lambda: counts_again(api), 10)
    assert [await status(api, one) for one in (token, early, ahead)] == [401, 401, 401]


async def test_new_client_is_known_at_once_when_it_was_refused_before(
    api: httpx.AsyncClient, registry_dsn: str
) -> None:
    assert await status(api, admin_api_token("new")) == 401
    async with session(registry_dsn) as registry:
        await registry.execute("INSERT INTO adminapi.applications (clientid) VALUES ('new')")
    assert await status(api, admin_api_token("new")) == 200


@pytest.mark.parametrize(("seconds", "told"), [(0, 401), (1, 200)])
async def test_token_counts_when_it_is_of_a_later_second_than_the_last_from_before(
    api: httpx.AsyncClient, registry_dsn: str, seconds: int, told: int
) -> None:
    at = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    async with session(registry_dsn) as registry:
        added = "INSERT INTO adminapi.applications (clientid, tokenssince) VALUES ('then', $1)"
        await registry.execute(added, at)
    issued = int(at.replace(tzinfo=UTC).timestamp()) + seconds
    assert await status(api, admin_api_token("then", iat=issued)) == told


async def test_backups_are_downloaded_when_an_operator_lets_the_client(
    api: httpx.AsyncClient, operator: ClientAdministration
) -> None:
    dump = "/v2/backups/00000000-0000-0000-0000-000000000001/dump"
    assert await status(api, admin_api_token("app"), path=dump) == 403
    await operator.change("app", backup_download=True)

    async def is_let() -> bool:
        return await status(api, admin_api_token("app"), path=dump) == 404

    await wait_until(is_let, 10)


async def test_trail_names_the_client_as_for_our_own_tokens_when_it_has_changed_something(
    api: httpx.AsyncClient,
    registry_dsn: str,
) -> None:
    async with session(registry_dsn) as registry:
        await registry.execute("INSERT INTO adminapi.applications (clientid) VALUES ('trailed')")
    headers = {"Authorization": f"Bearer {admin_api_token('trailed')}"}
    assert (await api.delete("/v2/dbInstances/0", headers=headers)).status_code == 404
    (entry,) = (await api.get("/v2/audit", params={"limit": 1}, headers=headers)).json()
    assert (entry["client"], entry["method"]) == ("trailed", "DELETE")


@pytest.mark.parametrize("issuer", [ADMIN_API_ISSUER, ADMIN_API_ISSUER.rstrip("/")])
async def test_token_counts_when_its_issuer_is_written_as_the_setting_or_as_net_does(
    api: httpx.AsyncClient, issuer: str
) -> None:
    assert await status(api, admin_api_token("a-client", issuer=issuer)) == 200


@pytest.mark.parametrize(("difference", "told"), [(3, 200), (30, 401)])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_token_is_judged_with_some_seconds_to_spare_when_clocks_differ(
    api: httpx.AsyncClient, claim: str, difference: int, told: int
) -> None:
    at = now(-difference if claim == "exp" else difference)
    changes: dict[str, Any] = {claim: at}
    assert await status(api, admin_api_token("a-client", **changes)) == told


async def test_token_is_refused_when_the_settings_name_no_admin_api(idle_stranger: httpx.AsyncClient) -> None:
    assert await status(idle_stranger, admin_api_token("a-client")) == 401


async def test_service_is_unavailable_when_the_registry_cannot_tell_whether_the_client_is_there(
    prepared_postgres: EmbeddedPostgres,
) -> None:
    async with served(prepared_postgres, "postgresql://service:a-password@127.0.0.1:1/EdFi_Admin") as api:
        assert await status(api, admin_api_token("a-client")) == 503
