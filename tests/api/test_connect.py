import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator

import asyncpg
import httpx
import jwt
import pytest
from argon2 import low_level

from ods.registry.clients.secret_hashes import SecretHasher, Verdict
from ods.settings.settings import Settings
from tests.secret_search import as_secret
from tests.servers import session

SECRET = as_secret("A-secret+with%41ll 4 kinds: abcdefgh")
SCOPE = "edfi_admin_api/full_access"
REGISTRATION = {"ClientId": "an-app", "ClientSecret": SECRET, "DisplayName": "An app"}


def grant(**changes: str | None) -> dict[str, str]:
    form = {
        "grant_type": "client_credentials",
        "client_id": "an-app",
        "client_secret": SECRET,
        "scope": SCOPE,
    }
    return {name: value for name, value in (form | changes).items() if value is not None}


@pytest.fixture
async def registered(stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client without a token, whose registration succeeded."""
    answer = await stranger.post("/connect/register", data=REGISTRATION)
    assert answer.status_code == 200
    return stranger


async def test_client_is_registered_with_a_hash_when_the_form_is_valid(
    stranger: httpx.AsyncClient, registry_dsn: str
) -> None:
    answer = await stranger.post("/connect/register", data=REGISTRATION)

    assert answer.status_code == 200
    assert answer.json() == {"title": "Registered client an-app successfully.", "status": 200}
    async with session(registry_dsn) as connection:
        (row,) = await connection.fetch("SELECT * FROM adminapi.applications WHERE clientid = 'an-app'")
    assert (row["clientid"], row["displayname"]) == ("an-app", "An app")
    assert row["clientsecret"].startswith("$argon2id$")


async def test_exactly_one_registration_succeeds_when_two_ask_for_one_id_at_once(
    stranger: httpx.AsyncClient,
) -> None:
    answers = await asyncio.gather(*(stranger.post("/connect/register", data=REGISTRATION) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]


@pytest.mark.parametrize("value", ["x" * 257, "NUL \x00"])
@pytest.mark.parametrize("field", ["ClientId", "DisplayName"])
async def test_registration_is_refused_when_the_registry_cannot_hold_a_value(
    idle_stranger: httpx.AsyncClient, field: str, value: str
) -> None:
    answer = await idle_stranger.post("/connect/register", data=REGISTRATION | {field: value})

    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {field}


async def test_token_opens_the_api_when_the_secret_is_right(
    registered: httpx.AsyncClient, settings: Settings
) -> None:
    answer = await registered.post("/connect/token", data=grant())
    issued = answer.json()

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert (issued["token_type"], issued["expires_in"]) == ("Bearer", 1800)
    headers = {"Authorization": f"Bearer {issued['access_token']}"}
    assert (await registered.get("/v2/dbInstances", headers=headers)).status_code == 200
    claims = jwt.decode(issued["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == settings.token_lifetime
    assert issued["scope"] == f"edfi_admin_api/backup_download {SCOPE}"
    assert (claims["sub"], claims["scope"], claims["tenant"]) == ("an-app", issued["scope"], "default")


@pytest.mark.parametrize("path", ["/connect/register", "/connect/token"])
@pytest.mark.parametrize("content", [b"ClientId=%ff", b"ClientId=\xff", b"\xff=x"])
async def test_form_is_refused_when_it_is_not_utf_8(
    idle_stranger: httpx.AsyncClient, path: str, content: bytes
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await idle_stranger.post(path, content=content, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["title"] == "The body is not a well-formed form"


@pytest.mark.parametrize("encoded", ["not base64!", base64.b64encode(b"\xff:\xff").decode(), ""])
async def test_token_is_refused_when_http_basic_is_malformed(
    idle_stranger: httpx.AsyncClient, encoded: str
) -> None:
    headers = {"Authorization": f"Basic {encoded}"}
    answer = await idle_stranger.post("/connect/token", data=grant(), headers=headers)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def hashed_by_an_admin_api(secret: str = SECRET) -> str:
    salt = b"salt of 16 bytes"
    key = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, 10_000, 32)
    return base64.b64encode(struct.pack(">BIII", 1, 1, 10_000, len(salt)) + salt + key).decode()


@pytest.fixture
async def applications(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on the registry, where an Admin API has registered the client."""
    async with session(registry_dsn) as connection:
        await connection.execute(
            "INSERT INTO adminapi.applications (clientid, clientsecret, permissions) VALUES ($1, $2, $3)",
            "an-app",
            hashed_by_an_admin_api(),
            f'["ept:token","gt:client_credentials","scp:{SCOPE}"]',
        )
        yield connection


async def test_hash_of_an_admin_api_is_replaced_when_its_secret_is_first_used(
    stranger: httpx.AsyncClient, applications: asyncpg.Connection
) -> None:
    wrong = await stranger.post("/connect/token", data=grant(client_secret="wrong"))
    assert wrong.status_code == 401
    stored = "SELECT clientsecret FROM adminapi.applications WHERE clientid = 'an-app'"
    assert await applications.fetchval(stored) == hashed_by_an_admin_api()

    answers = await asyncio.gather(*(stranger.post("/connect/token", data=grant()) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    replaced = await applications.fetchval(stored)
    assert replaced.startswith("$argon2id$")

    assert (await stranger.post("/connect/token", data=grant())).status_code == 200
    assert await applications.fetchval(stored) == replaced
    wrong = await stranger.post("/connect/token", data=grant(client_secret="wrong"))
    assert wrong.status_code == 401


async def test_hash_that_was_changed_meanwhile_stays_when_the_first_use_replaces_it(
    stranger: httpx.AsyncClient, applications: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SecretHasher.judge

    def slow_judge(hasher: SecretHasher, stored: str | None, secret: str) -> Verdict:
        verdict = judge(hasher, stored, secret)
        asyncio.run_coroutine_threadsafe(change(), loop).result()
        return verdict

    async def change() -> None:
        await applications.execute("UPDATE adminapi.applications SET clientsecret = 'changed'")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(SecretHasher, "judge", slow_judge)
    assert (await stranger.post("/connect/token", data=grant())).status_code == 200
    stored = await applications.fetch("SELECT DISTINCT clientsecret FROM adminapi.applications")
    assert [row[0] for row in stored] == ["changed"]


async def test_token_is_issued_when_the_hash_cannot_be_replaced(
    stranger: httpx.AsyncClient, applications: asyncpg.Connection
) -> None:
    await applications.execute(
        "CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON adminapi.applications EXECUTE FUNCTION pg_temp.refuse()"
    )
    try:
        assert (await stranger.post("/connect/token", data=grant())).status_code == 200
    finally:
        await applications.execute("DROP TRIGGER refuse ON adminapi.applications")


@pytest.mark.parametrize(
    "permissions",
    ["[]", '["scp:edfi_admin_api/tenant_access"]', "{}", "no JSON", f'"scp:{SCOPE}"', "[" * 50_000],
)
async def test_token_is_refused_when_an_admin_api_did_not_permit_the_scope(
    stranger: httpx.AsyncClient, applications: asyncpg.Connection, permissions: str
) -> None:
    await applications.execute("UPDATE adminapi.applications SET permissions = $1", permissions)
    answer = await stranger.post("/connect/token", data=grant())

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_refusals_cost_as_much_when_the_client_is_unknown_as_when_the_secret_is_wrong(
    registered: httpx.AsyncClient, registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(registry_dsn) as connection:
        await connection.execute(
            "INSERT INTO adminapi.applications (clientid, clientsecret)"
            " VALUES ('broken', 'AQAAAAEAACcQ'), ('adopted', $1)",
            hashed_by_an_admin_api(),
        )
    hashed: list[bytes] = []
    verify_secret = low_level.verify_secret

    def counted(encoded: bytes, secret: bytes, kind: low_level.Type) -> bool:
        hashed.append(encoded)
        return verify_secret(encoded, secret, kind)

    monkeypatch.setattr("argon2._password_hasher.verify_secret", counted)
    for client_id in ("an-app", "unknown", "broken", "adopted"):
        hashed.clear()
        answer = await registered.post(
            "/connect/token", data=grant(client_id=client_id, client_secret="wrong")
        )
        assert answer.status_code == 401
        # The hash is what takes time: the same work, with the same parameters, for each of them.
        assert [encoded.split(b"$")[1:4] for encoded in hashed] == [
            [b"argon2id", b"v=19", b"m=19456,t=2,p=1"]
        ], client_id
