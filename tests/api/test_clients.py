"""What clients may do, for how long, and who may become one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.clients.administration import ClientAdministration, NewClient
from ods.registry.clients.credentials import STRONG_SECRET, ClientScope, new_secret
from ods.registry.clients.registration import RegistrationWindow
from ods.registry.clients.secret_hashes import SecretHasher
from ods.registry.clients.store import ClientStore
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from tests.api import server
from tests.api.service import NOBODY, bearer, client_of, running, tokens
from tests.servers import make_settings, session

FULL = "edfi_admin_api/full_access"
READ_ONLY = "edfi_admin_api/readonly_access"
DOWNLOAD = "edfi_admin_api/backup_download"
BAD_SCOPE = "The request is missing required scope claims or has invalid scope values"
SECRET = new_secret()
INSTANCES = "/v2/dbInstances"
REGISTRATION = {"ClientId": "an-app", "ClientSecret": SECRET, "DisplayName": "An app"}
OPERATOR = "operator@host"


@pytest.fixture(scope="module")
def hashed() -> str:
    return SecretHasher().hash(SECRET)


@pytest.fixture
async def window(registry_dsn: str) -> AsyncIterator[RegistrationWindow]:
    engine = create_registry_engine(registry_dsn)
    yield RegistrationWindow(engine)
    await engine.dispose()


@pytest.fixture
async def operator(registry_dsn: str) -> AsyncIterator[ClientAdministration]:
    """What the operator does at the command line."""
    engine = create_registry_engine(registry_dsn)
    yield ClientAdministration(engine, OPERATOR, shared=False)
    await engine.dispose()


@pytest.fixture
async def client(operator: ClientAdministration, hashed: str) -> str:
    """A client that may do everything."""
    return (await operator.add(NewClient("an-app", "An app"), hashed)).client_id


@pytest.fixture
async def reader(operator: ClientAdministration, hashed: str) -> str:
    """A client that may only read."""
    return (await operator.add(NewClient("a reader", "A reader", ClientScope.READ_ONLY), hashed)).client_id


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


async def log_in(
    api: httpx.AsyncClient, client_id: str, secret: str = SECRET, scope: str = FULL
) -> httpx.Response:
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": secret,
        "scope": scope,
    }
    return await api.post("/connect/token", data=form)


async def headers_of(api: httpx.AsyncClient, client_id: str, scope: str = FULL) -> dict[str, str]:
    answer = await log_in(api, client_id, scope=scope)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def status(api: httpx.AsyncClient, headers: dict[str, str]) -> int:
    return (await api.get(INSTANCES, headers=headers)).status_code


async def audited(rows: asyncpg.Connection) -> list[tuple[str, str, str]]:
    found = await rows.fetch("SELECT client, method, path, address FROM adminapi.audit ORDER BY id")
    return [(row["client"], row["address"], row["path"]) for row in found if row["method"] == "CLI"]


# Registration.


@pytest.fixture
async def closed(settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two API processes on one registry that do not say anything about registration."""
    quiet = settings.model_copy(update={"registration": Settings.model_fields["registration"].default})
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(quiet, NOBODY)) for _ in range(2)]
        yield [await stack.enter_async_context(client_of(app)) for app in apps]


async def register(api: httpx.AsyncClient, **changes: str) -> httpx.Response:
    return await api.post("/connect/register", data=REGISTRATION | changes)


async def test_registration_is_closed_when_nothing_is_set(closed: list[httpx.AsyncClient]) -> None:
    for api in closed:
        answer = await register(api)
        assert (answer.status_code, answer.content) == (403, b"")


async def test_registration_is_open_in_every_process_until_it_is_closed_when_the_operator_opens_it(
    closed: list[httpx.AsyncClient], window: RegistrationWindow
) -> None:
    until = await window.open(5, OPERATOR)
    assert timedelta(minutes=4) < until - datetime.now(UTC).replace(tzinfo=None) <= timedelta(minutes=5)
    for number, api in enumerate(closed):
        assert (await register(api, ClientId=f"client {number}")).status_code == 200
    await window.close(OPERATOR)
    for api in closed:
        assert (await register(api, ClientId="too late")).status_code == 403


async def test_registration_closes_by_itself_when_the_time_is_over(
    closed: list[httpx.AsyncClient], window: RegistrationWindow, rows: asyncpg.Connection
) -> None:
    await window.open(1, OPERATOR)
    await rows.execute(
        "UPDATE adminapi.registration SET openuntil = timezone('utc', clock_timestamp()) + interval '0.5 s'"
    )
    assert (await register(closed[0])).status_code == 200

    async def is_closed() -> bool:
        return (await register(closed[0])).status_code == 403

    await wait_until(is_closed, 5)
    assert not await window.is_open()


async def test_registration_is_in_the_audit_trail_when_it_was_opened_and_closed(
    window: RegistrationWindow, rows: asyncpg.Connection
) -> None:
    await window.open(5, OPERATOR)
    await window.close(OPERATOR)
    assert await audited(rows) == [
        ("command line", OPERATOR, "ods registration open --minutes 5"),
        ("command line", OPERATOR, "ods registration close"),
    ]


# Scopes.


@pytest.mark.parametrize("verb", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "ODD"])
@pytest.mark.parametrize("path", [INSTANCES, f"{INSTANCES}/1", "/v2/sweep", "/v2/nowhere"])
async def test_change_is_forbidden_when_the_token_is_for_reading(
    stranger: httpx.AsyncClient, reader: str, verb: str, path: str
) -> None:
    headers = await headers_of(stranger, reader, READ_ONLY)
    answer = await stranger.request(verb, path, headers=headers, json={"name": "x"})
    assert (answer.status_code, answer.content) == (403, b"")


async def test_everything_can_be_read_when_the_token_is_for_reading(
    stranger: httpx.AsyncClient, reader: str
) -> None:
    headers = await headers_of(stranger, reader, READ_ONLY)
    for path in (INSTANCES, "/v2/odsInstances", "/v2/tenants", "/v2/audit"):
        assert (await stranger.get(path, headers=headers)).status_code == 200
    assert (await stranger.get("/v2/nowhere", headers=headers)).status_code == 404


async def test_scope_is_invalid_when_a_reader_asks_for_more(stranger: httpx.AsyncClient, reader: str) -> None:
    answer = await log_in(stranger, reader, scope=FULL)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {"error": "invalid_scope", "error_description": BAD_SCOPE}
    assert (await log_in(stranger, reader, "wrong", FULL)).status_code == 401


async def test_client_may_ask_for_less_when_it_may_do_everything(
    stranger: httpx.AsyncClient, client: str
) -> None:
    headers = await headers_of(stranger, client, READ_ONLY)
    assert await status(stranger, headers) == 200
    assert (await stranger.post("/v2/sweep", headers=headers)).status_code == 403
    answer = await log_in(stranger, client, scope=f"{FULL} {READ_ONLY}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_token_counts_for_less_when_the_clients_scope_was_narrowed(
    stranger: httpx.AsyncClient, client: str, rows: asyncpg.Connection
) -> None:
    headers = await headers_of(stranger, client)
    await rows.execute("UPDATE adminapi.applications SET scope = 'read_only'")
    assert await status(stranger, headers) == 401


# Downloads of backups.


@pytest.fixture
def dump() -> str:
    """The path of a backup that there is not: who may download it is answered 404."""
    return f"/v2/backups/{uuid4()}/dump"


async def test_download_is_forbidden_when_the_token_is_for_reading(
    stranger: httpx.AsyncClient, reader: str, client: str, dump: str
) -> None:
    for one in (reader, client):
        answer = await stranger.get(dump, headers=await headers_of(stranger, one, READ_ONLY))
        assert answer.status_code == 403
        assert answer.json()["detail"] == f"Downloading a backup needs a token with the scope {DOWNLOAD}."
    refused = await log_in(stranger, reader, scope=f"{READ_ONLY} {DOWNLOAD}")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize("scope", [FULL, f"{DOWNLOAD} {FULL}", f"{READ_ONLY} {DOWNLOAD}"])
async def test_download_is_allowed_when_the_token_has_the_scope(
    stranger: httpx.AsyncClient, client: str, dump: str, scope: str
) -> None:
    answer = await log_in(stranger, client, scope=scope)
    assert set(answer.json()["scope"].split()) == {*scope.split(), DOWNLOAD}
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await stranger.get(dump, headers=headers)).status_code == 404


@pytest.mark.parametrize("scope", [DOWNLOAD, f"{FULL} {READ_ONLY} {DOWNLOAD}", f"{FULL} {DOWNLOAD}x"])
async def test_scope_is_invalid_when_it_is_not_one_access_with_or_without_downloads(
    stranger: httpx.AsyncClient, client: str, scope: str
) -> None:
    answer = await log_in(stranger, client, scope=scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_tokens_are_refused_and_others_say_so_when_downloads_are_given_or_withheld(
    stranger: httpx.AsyncClient, operator: ClientAdministration, client: str, reader: str, dump: str
) -> None:
    withheld, given = await headers_of(stranger, client), await headers_of(stranger, reader, READ_ONLY)
    await operator.change(client, backup_download=False)
    await operator.change(reader, backup_download=True)
    for headers in (withheld, given):
        await wait_until(partial(_is_refused, stranger, headers), 5)
    headers = await headers_of(stranger, client)
    assert await status(stranger, headers) == 200
    assert (await stranger.get(dump, headers=headers)).status_code == 403
    headers = await headers_of(stranger, reader, f"{READ_ONLY} {DOWNLOAD}")
    assert (await stranger.get(dump, headers=headers)).status_code == 404
    assert (await stranger.post("/v2/sweep", headers=headers)).status_code == 403


async def test_token_does_not_count_when_downloads_were_withheld_past_the_service(
    stranger: httpx.AsyncClient, client: str, rows: asyncpg.Connection
) -> None:
    headers = await headers_of(stranger, client)
    await rows.execute("UPDATE adminapi.applications SET backupdownload = false")
    assert await status(stranger, headers) == 401


async def _is_refused(api: httpx.AsyncClient, headers: dict[str, str]) -> bool:
    return await status(api, headers) == 401


# Tokens die with their client.


@pytest.fixture
async def processes(settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two API processes on one registry."""
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(settings, NOBODY)) for _ in range(2)]
        yield [await stack.enter_async_context(client_of(app)) for app in apps]


async def _expire(operator: ClientAdministration, rows: asyncpg.Connection) -> None:
    await rows.execute("UPDATE adminapi.applications SET expiresat = timezone('utc', clock_timestamp())")


ENDS: dict[str, Callable[[ClientAdministration, asyncpg.Connection], Awaitable[object]]] = {
    "disabled": lambda operator, _: operator.disable("an-app"),
    "rotated": lambda operator, _: operator.rotate("an-app", SecretHasher().hash(new_secret())),
    "removed": lambda operator, _: operator.remove("an-app"),
    "expired": _expire,
}


@pytest.mark.parametrize("end", ENDS)
async def test_token_is_refused_by_every_process_within_5_s_when_its_client_was(
    processes: list[httpx.AsyncClient],
    operator: ClientAdministration,
    rows: asyncpg.Connection,
    client: str,
    end: str,
) -> None:
    headers = await headers_of(processes[0], client)
    assert [await status(api, headers) for api in processes] == [200, 200]
    await ENDS[end](operator, rows)
    ended = monotonic()

    async def are_refused() -> bool:
        return [await status(api, headers) for api in processes] == [401, 401]

    await wait_until(are_refused, 5)
    assert monotonic() - ended < 5
    assert (await log_in(processes[0], client)).status_code == 401


async def test_old_tokens_stay_refused_when_the_client_is_enabled_or_added_again(
    stranger: httpx.AsyncClient, operator: ClientAdministration, client: str, hashed: str
) -> None:
    first = await headers_of(stranger, client)
    await operator.disable(client)
    await operator.enable(client)
    second = await headers_of(stranger, client)
    assert [await status(stranger, headers) for headers in (first, second)] == [401, 200]
    await operator.remove(client)
    await operator.add(NewClient(client, "Another"), hashed)
    third = await headers_of(stranger, client)
    assert [await status(stranger, headers) for headers in (third, second, first)] == [200, 401, 401]


async def test_new_token_counts_at_once_when_another_process_remembers_the_old_generation(
    processes: list[httpx.AsyncClient], operator: ClientAdministration, client: str
) -> None:
    headers = await headers_of(processes[0], client)
    assert await status(processes[1], headers) == 200
    await operator.rotate(client, SecretHasher().hash(SECRET))
    assert await status(processes[1], await headers_of(processes[0], client)) == 200


async def test_token_without_generation_counts_when_its_client_never_had_one(
    stranger: httpx.AsyncClient, settings: Settings, operator: ClientAdministration
) -> None:
    headers = bearer(settings)
    assert await status(stranger, headers) == 200
    await operator.rotate("a-client", "no hash")

    async def is_refused() -> bool:
        return await status(stranger, headers) == 401

    await wait_until(is_refused, 5)


async def test_token_without_generation_is_refused_when_its_client_has_one_or_there_is_none(
    stranger: httpx.AsyncClient, settings: Settings, client: str
) -> None:
    for client_id in (client, "unknown"):
        headers = {"Authorization": f"Bearer {tokens(settings).issue(client_id)}"}
        assert await status(stranger, headers) == 401


async def test_request_is_unavailable_when_the_registry_cannot_tell_whether_the_client_is_there(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = SecretStr("postgresql://service:a-password@127.0.0.1:1/EdFi_Admin")
    away = settings.model_copy(update={"admin_dsn": dsn})
    async with running(away, NOBODY) as app, client_of(app, headers=bearer(away)) as api:
        answer = await api.post("/v2/sweep")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["title"] == "The registry cannot be reached"
    assert "a-password" not in caplog.text


async def test_log_in_is_refused_when_the_client_is_disabled_and_granted_when_it_is_enabled(
    stranger: httpx.AsyncClient, operator: ClientAdministration, client: str
) -> None:
    await operator.disable(client)
    assert (await log_in(stranger, client)).status_code == 401
    await operator.enable(client)
    assert (await log_in(stranger, client)).status_code == 200


async def test_client_lasts_as_long_as_was_said_when_it_was_added(
    stranger: httpx.AsyncClient, operator: ClientAdministration, hashed: str
) -> None:
    lasting = await operator.add(NewClient("lasting", "", expires=timedelta(days=1)), hashed)
    assert lasting.expires is not None
    left = lasting.expires - datetime.now(UTC).replace(tzinfo=None)
    assert timedelta(hours=23) < left <= timedelta(days=1)
    over = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    await operator.add(NewClient("over", "", expires=over), hashed)
    assert (await log_in(stranger, "lasting")).status_code == 200
    assert (await log_in(stranger, "over")).status_code == 401


# What is written down.


async def test_every_change_is_in_the_audit_trail_without_secrets_when_the_operator_makes_it(
    operator: ClientAdministration, rows: asyncpg.Connection, hashed: str
) -> None:
    await operator.add(NewClient("an-app", "An app", ClientScope.READ_ONLY), hashed)
    await operator.disable("an-app")
    await operator.enable("an-app")
    await operator.rotate("an-app", hashed)
    await operator.remove("an-app")
    told = await audited(rows)
    assert [path for _, _, path in told] == [
        "ods client add an-app --scope read_only",
        *(f"ods client {verb} an-app" for verb in ("disable", "enable", "rotate", "remove")),
    ]
    assert {(client, address) for client, address, _ in told} == {("command line", OPERATOR)}


LAST_USED = "SELECT lastusedat FROM adminapi.applications WHERE clientid = 'an-app'"


async def test_last_use_is_written_once_a_minute_when_a_client_gets_tokens(
    stranger: httpx.AsyncClient, client: str, rows: asyncpg.Connection
) -> None:
    assert await rows.fetchval(LAST_USED) is None
    assert (await log_in(stranger, client, "wrong")).status_code == 401
    assert await rows.fetchval(LAST_USED) is None
    await headers_of(stranger, client)
    first = await rows.fetchval(LAST_USED)
    assert abs(first - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=10)
    await headers_of(stranger, client)
    assert await rows.fetchval(LAST_USED) == first
    await rows.execute("UPDATE adminapi.applications SET lastusedat = lastusedat - interval '61 s'")
    await headers_of(stranger, client)
    assert await rows.fetchval(LAST_USED) > first


async def test_last_use_is_written_once_when_processes_note_it_at_once(
    registry_dsn: str, client: str, rows: asyncpg.Connection
) -> None:
    engine = create_registry_engine(registry_dsn)
    store = ClientStore(engine, shared=False)
    await store.note_use(client)
    first = await rows.fetchval(LAST_USED)
    await asyncio.gather(*(store.note_use(client) for _ in range(5)))
    assert await rows.fetchval(LAST_USED) == first
    await engine.dispose()


@pytest.mark.timed
async def test_token_does_not_wait_when_the_last_use_cannot_be_written(
    settings: Settings, client: str, rows: asyncpg.Connection
) -> None:
    async with server.serving(settings) as serving, httpx.AsyncClient(base_url=serving.url) as api:
        async with rows.transaction():
            await rows.execute("SELECT FROM adminapi.applications FOR UPDATE")
            asked = monotonic()
            await headers_of(api, client)
            assert monotonic() - asked < 2

        async def is_written() -> bool:
            return await rows.fetchval(LAST_USED) is not None

        await wait_until(is_written, 5)


# Failed log-ins.


@pytest.fixture
async def limited(
    postgres: EmbeddedPostgres, registry_dsn: str
) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    """An API that limits failures; gives its clients by their address."""
    async with (
        running(make_settings(postgres, registry_dsn), NOBODY) as app,
        AsyncExitStack() as stack,
    ):
        clients = {
            address: await stack.enter_async_context(client_of(app, address))
            for address in (f"192.0.2.{number}" for number in range(8))
        }
        yield lambda address: clients[address]


async def fail(api: httpx.AsyncClient, client_id: str, times: int) -> list[int]:
    return [(await log_in(api, client_id, "wrong")).status_code for _ in range(times)]


async def test_client_has_to_wait_at_this_address_alone_when_it_failed_some_times(
    limited: Callable[[str], httpx.AsyncClient], client: str, reader: str
) -> None:
    guessing, well = limited("192.0.2.0"), limited("192.0.2.1")
    assert await fail(guessing, client, 5) == [401] * 5
    refused = await log_in(guessing, client)
    assert refused.status_code == 429
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert (await log_in(well, client)).status_code == 200
    assert (await log_in(guessing, reader, scope=READ_ONLY)).status_code == 200


async def test_no_more_secrets_are_tried_when_they_come_at_once(
    limited: Callable[[str], httpx.AsyncClient], client: str
) -> None:
    api = limited("192.0.2.0")
    answers = await asyncio.gather(*(log_in(api, client, "wrong") for _ in range(20)))
    tried = [answer.status_code for answer in answers].count(401)
    assert 5 <= tried <= 6


async def test_row_of_failures_ends_when_a_log_in_succeeds(
    limited: Callable[[str], httpx.AsyncClient], client: str
) -> None:
    api = limited("192.0.2.0")
    for _ in range(3):
        assert await fail(api, client, 4) == [401] * 4
        assert (await log_in(api, client)).status_code == 200
    many = await asyncio.gather(*(log_in(api, client) for _ in range(20)))
    assert {answer.status_code for answer in many} == {200}


@pytest.mark.timed
async def test_failures_take_longer_and_no_client_is_kept_out_when_they_come_from_everywhere(
    limited: Callable[[str], httpx.AsyncClient], client: str
) -> None:
    for number in range(4):
        assert await fail(limited(f"192.0.2.{number}"), client, 5) == [401] * 5
    asked = monotonic()
    assert await fail(limited("192.0.2.6"), client, 1) == [401]
    assert monotonic() - asked >= 2
    asked = monotonic()
    assert (await log_in(limited("192.0.2.7"), client)).status_code == 200
    assert monotonic() - asked < 2


async def test_log_ins_are_not_limited_when_limiting_is_switched_off(
    stranger: httpx.AsyncClient, client: str
) -> None:
    assert await fail(stranger, client, 12) == [401] * 12


def test_secret_keeps_the_rules_and_needs_no_quotes_when_it_is_new() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(STRONG_SECRET.fullmatch(secret) for secret in secrets)
    assert all(secret.replace("-", "").replace("_", "").isalnum() for secret in secrets)
