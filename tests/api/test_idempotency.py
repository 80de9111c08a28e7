"""Requests that are sent again under the same `Idempotency-Key`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from temporalio.client import Client

from api.app import app_with
from ods.backups.errors import BackupFaultError
from ods.embedded.polling import wait_until
from ods.registry.idempotency_keys import IdempotencyKeys, KeyedRequest, StoredAnswer
from ods.registry.storage.errors import KeyInUseError
from ods.settings.settings import Settings
from tests import registries
from tests.api import server
from tests.api.service import NOBODY, bearer, client_of, running, tokens
from tests.servers import session

INSTANCES = "/v2/dbInstances"
_IN_TRANSACTION = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""
_WAITERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


@pytest.fixture
async def other_process(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another application on the same registry."""
    async with running(settings, NOBODY) as app, client_of(app, headers=bearer(settings)) as client:
        yield client


def body(name: str = "A name") -> dict[str, object]:
    return {"name": name, "databaseTemplate": "Minimal"}


def keyed(key: str = "a key") -> dict[str, str]:
    return {"Idempotency-Key": key}


def kept(answer: httpx.Response) -> dict[str, str]:
    """The headers of an answer, without the id that each request has of its own."""
    return {name: value for name, value in answer.headers.items() if name != "x-request-id"}


async def _jobs(rows: asyncpg.Connection) -> int:
    return int(await rows.fetchval("SELECT count(*) FROM adminapi.jobstatuses"))


@asynccontextmanager
async def _held_up(registry_dsn: str) -> AsyncIterator[None]:
    """No request can store its answer before the block ends."""
    async with session(registry_dsn) as holder, holder.transaction():
        await holder.execute("LOCK TABLE adminapi.idempotencykeys IN SHARE MODE")
        yield


async def _waits(rows: asyncpg.Connection) -> None:
    async def is_waiting() -> bool:
        return bool(await rows.fetchval(_WAITERS))

    await wait_until(is_waiting, 10)


async def test_answer_is_the_same_when_a_request_is_repeated(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    first = await api.post(INSTANCES, json=body(), headers=keyed())
    second = await api.post(f"{INSTANCES}/".upper(), json=body(), headers=keyed())

    assert first.status_code == 202
    assert first.headers["Location"] == f"{INSTANCES}/{first.json()['id']}"
    assert (second.status_code, second.content, kept(second)) == (202, first.content, kept(first))
    assert await _jobs(rows) == 1


async def test_answer_is_the_same_when_the_process_is_another(
    api: httpx.AsyncClient, other_process: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    first = await api.post(INSTANCES, json=body(), headers=keyed())
    second = await other_process.post(INSTANCES, json=body(), headers=keyed())

    assert (second.status_code, second.content, kept(second)) == (202, first.content, kept(first))
    assert await _jobs(rows) == 1


async def test_answer_is_the_same_when_the_instance_has_changed_since(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    first = await api.post(INSTANCES, json=body(), headers=keyed())
    await rows.execute("UPDATE adminapi.managed_instances SET state = 'Deleted'")

    assert (await api.post(INSTANCES, json=body(), headers=keyed())).content == first.content
    assert await _jobs(rows) == 1


@pytest.mark.parametrize(
    ("first", "method", "path", "sent"),
    [
        (INSTANCES, "POST", INSTANCES, body("Another")),
        ("/v2/odsInstances/manage", "POST", "/v2/odsInstances/manage?any=1", body()),
        (INSTANCES, "POST", "/v2/odsInstances/manage", body()),
        (INSTANCES, "DELETE", f"{INSTANCES}/1", None),
    ],
    ids=["body", "query", "path", "method"],
)
async def test_request_is_refused_when_its_key_was_used_for_another(
    api: httpx.AsyncClient,
    rows: asyncpg.Connection,
    first: str,
    method: str,
    path: str,
    sent: dict[str, object] | None,
) -> None:
    await api.post(first, json=body(), headers=keyed())

    answer = await api.request(method, path, json=sent, headers=keyed())

    assert answer.status_code == 422
    assert answer.json()["title"] == "Another request was sent with this Idempotency-Key"
    assert await _jobs(rows) == 1


async def test_key_is_another_when_the_client_is_another(
    api: httpx.AsyncClient, app: FastAPI, settings: Settings, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.applications (clientid, generation) VALUES ('another-client', NULL)"
    )
    token = tokens(settings).issue("another-client")
    await api.post(INSTANCES, json=body(), headers=keyed())

    async with client_of(app, headers={"Authorization": f"Bearer {token}"}) as other:
        answer = await other.post(INSTANCES, json=body("Another"), headers=keyed())

    assert answer.status_code == 202, answer.text
    assert await _jobs(rows) == 2


async def test_second_request_is_refused_when_the_first_is_under_way_in_another_process(
    api: httpx.AsyncClient, other_process: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    async with _held_up(registry_dsn):
        first = asyncio.create_task(api.post(INSTANCES, json=body(), headers=keyed()))
        await _waits(rows)
        second = await other_process.post(INSTANCES, json=body(), headers=keyed())
        assert await _jobs(rows) == 0  # nothing is committed before the answer is

    assert (second.status_code, second.headers["Retry-After"]) == (409, "1")
    assert second.json()["title"] == "A request with this Idempotency-Key is still under way"
    answer = await first
    third = await other_process.post(INSTANCES, json=body(), headers=keyed())
    assert (third.status_code, third.content) == (202, answer.content)
    assert await _jobs(rows) == 1


async def test_request_is_carried_out_once_when_many_send_it_at_once(
    api: httpx.AsyncClient, other_process: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    async def answered(client: httpx.AsyncClient) -> httpx.Response:
        while (answer := await client.post(INSTANCES, json=body(), headers=keyed())).status_code == 409:
            await asyncio.sleep(0.01)
        return answer

    answers = await asyncio.gather(*(answered(client) for client in [api, other_process] * 15))

    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    assert await _jobs(rows) == 1


async def test_nothing_is_made_and_the_key_is_free_when_the_process_is_killed_before_the_commit(
    api: httpx.AsyncClient, settings: Settings, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    async with (
        server.serving(settings) as serving,
        httpx.AsyncClient(base_url=serving.url, headers=bearer(settings)) as client,
        _held_up(registry_dsn),
    ):
        cut = asyncio.create_task(client.post(INSTANCES, json=body(), headers=keyed()))
        await _waits(rows)
        await serving.kill()
        with pytest.raises(httpx.TransportError):
            await cut
    assert await _jobs(rows) == 0

    async def is_accepted() -> bool:
        return (await api.post(INSTANCES, json=body(), headers=keyed())).status_code == 202

    await wait_until(is_accepted, 10)
    assert await _jobs(rows) == 1


async def test_key_becomes_free_when_a_process_hangs(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ods.registry.storage.engine._LONGEST_PAUSE", "100ms")
    engine = next(iter(app.state.tenancy)).tenant.engine
    await engine.dispose()  # what has another limit
    keys = IdempotencyKeys(engine)
    request = KeyedRequest("a-client", "a key", b"digest")
    answer = StoredAnswer(202, {}, b"")
    outside = copy_context()

    async def reserve() -> None:
        async with keys.reserved(request):
            pass

    async def is_free() -> bool:
        with suppress(KeyInUseError):
            await asyncio.create_task(reserve(), context=outside)
            return True
        return False

    async def hanging() -> None:
        async with keys.reserved(request) as reservation:
            assert not await is_free()
            await wait_until(is_free, 10)
            await reservation.store(answer)

    with pytest.raises(DBAPIError):
        await hanging()
    async with keys.reserved(request) as reservation:
        assert reservation.answer is None


async def test_key_is_free_when_the_request_was_refused(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    assert (await api.post(INSTANCES, json=body(""), headers=keyed())).status_code == 400
    assert (await api.post(INSTANCES, json=body(), headers=keyed())).status_code == 202
    assert await _jobs(rows) == 1


async def test_nothing_is_made_when_the_answer_cannot_be_stored(
    api_with_temporal: httpx.AsyncClient, rows: asyncpg.Connection, temporal: Client
) -> None:
    await rows.execute("ALTER TABLE adminapi.idempotencykeys ADD CONSTRAINT none CHECK (false)")
    try:
        answer = await api_with_temporal.post(INSTANCES, json=body(), headers=keyed())
    finally:
        await rows.execute("ALTER TABLE adminapi.idempotencykeys DROP CONSTRAINT none")

    assert answer.status_code == 500
    assert await _jobs(rows) == 0
    assert (await api_with_temporal.post(INSTANCES, json=body(), headers=keyed())).status_code == 202


async def test_request_is_new_when_its_answer_is_older_than_a_day(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await api.post(INSTANCES, json=body(), headers=keyed())
    await rows.execute("UPDATE adminapi.idempotencykeys SET createdat = createdat - interval '24 hours'")

    answer = await api.post(INSTANCES, json=body("Another"), headers=keyed())

    assert (answer.status_code, answer.json()["name"]) == (202, "Another")
    assert (await api.post(INSTANCES, json=body("Another"), headers=keyed())).content == answer.content


async def test_old_answers_are_removed_when_the_pass_comes_by(
    app: FastAPI, api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await api.post(INSTANCES, json=body("Old"), headers=keyed("old"))
    await rows.execute("UPDATE adminapi.idempotencykeys SET createdat = createdat - interval '24 hours'")
    await api.post(INSTANCES, json=body("New"), headers=keyed("new"))

    services = next(iter(app.state.tenancy))
    assert not await IdempotencyKeys(services.tenant.engine).prune()

    assert await rows.fetchval("SELECT string_agg(key, ',') FROM adminapi.idempotencykeys") == "new"


async def test_other_old_answers_are_removed_when_another_session_has_locked_one(
    app: FastAPI, api: httpx.AsyncClient, rows: asyncpg.Connection, registry_dsn: str
) -> None:
    for key in ("locked", "old"):
        await api.post(INSTANCES, json=body(key), headers=keyed(key))
    await rows.execute("UPDATE adminapi.idempotencykeys SET createdat = createdat - interval '24 hours'")
    keys = IdempotencyKeys(next(iter(app.state.tenancy)).tenant.engine)
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        await forgotten.execute("SELECT FROM adminapi.idempotencykeys WHERE key = 'locked' FOR UPDATE")
        assert not await keys.prune()
    assert await rows.fetchval("SELECT string_agg(key, ',') FROM adminapi.idempotencykeys") == "locked"


@pytest.mark.parametrize("headers", [[""], ["k" * 256], ["one", "two"]], ids=["empty", "long", "two"])
async def test_request_is_refused_when_its_key_is_none(
    api: httpx.AsyncClient, rows: asyncpg.Connection, headers: list[str]
) -> None:
    sent = [("Idempotency-Key", value) for value in headers]
    answer = await api.post(INSTANCES, json=body(), headers=sent)

    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["IdempotencyKey"]
    assert await _jobs(rows) == 0


async def test_longest_key_is_accepted(api: httpx.AsyncClient) -> None:
    assert (await api.post(INSTANCES, json=body(), headers=keyed("k" * 255))).status_code == 202


async def test_workflow_is_started_when_the_request_has_a_key(
    api_with_temporal: httpx.AsyncClient, temporal: Client
) -> None:
    accepted = (await api_with_temporal.post(INSTANCES, json=body(), headers=keyed())).json()

    description = await temporal.get_workflow_handle(str(accepted["odsInstanceId"])).describe()
    assert description.workflow_type == "CreateInstance"


async def _completed(api: httpx.AsyncClient, rows: asyncpg.Connection) -> int:
    made = (await api.post(INSTANCES, json=body())).json()["id"]
    await rows.execute(registries.COMPLETE_ALL)
    await rows.execute("INSERT INTO dbo.odsinstances VALUES ($1, 'A name', 'Minimal', 's')", made)
    return int(made)


@pytest.mark.parametrize("surface", [INSTANCES, "/v2/odsInstances/manage", "/v2/odsInstances"])
async def test_delete_gets_the_same_answer_when_it_is_repeated(
    api: httpx.AsyncClient, rows: asyncpg.Connection, surface: str
) -> None:
    path = f"{surface}/{await _completed(api, rows)}"
    first = await api.delete(path, headers=keyed())
    second = await api.delete(path, headers=keyed())

    assert first.is_success
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert kept(second) == kept(first)
    assert not (await api.delete(path)).is_success
    assert await _jobs(rows) == 2


async def test_refresh_gets_the_same_answer_when_it_is_repeated(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    path = "/v2/odsInstances/edOrgs/refresh"
    first = await api.post(path, headers=keyed())
    await rows.execute("UPDATE adminapi.jobstatuses SET status = 'Completed'")
    second = await api.post(path, headers=keyed())

    assert (second.status_code, second.content, kept(second)) == (202, first.content, kept(first))
    assert (await api.post(path)).content != first.content


_WITHOUT_JOBS = {
    *("/v2/jobs/{jobId}/cancel", "/v2/jobs/{jobId}/abandon", "/v2/sweep", "/v2/spares/refill"),
    *("/v2/dbInstances/{instance_id}/adopt", "/v2/recovery"),
    *("/v2/odsInstances", "/v2/odsInstanceContexts", "/v2/odsInstanceDerivatives"),
    *("/v2/odsInstanceContexts/{context_id}", "/v2/odsInstanceDerivatives/{derivative_id}"),
}


def _takes_key(operation: dict[str, Any]) -> bool:
    return any(it["name"] == "Idempotency-Key" for it in operation.get("parameters", []))


def test_every_endpoint_that_starts_a_job_documents_the_key(settings: Settings) -> None:
    paths = app_with(settings).openapi()["paths"]
    operations = {
        (verb, path): operation
        for path, verbs in paths.items()
        for verb, operation in verbs.items()
        if path.startswith("/v2/")
    }
    taking = {which for which, operation in operations.items() if _takes_key(operation)}
    expected = {which for which in operations if which[0] in ("post", "delete")}
    assert taking == {(verb, path) for verb, path in expected if path not in _WITHOUT_JOBS}
    for which in taking:
        assert {"409", "422"} <= operations[which]["responses"].keys()


@pytest.fixture
def with_store(settings: Settings, tmp_path: Path) -> Settings:
    """The test's settings, with a store of backups."""
    return settings.model_copy(update={"backup_url": tmp_path.as_uri()})


async def test_no_connection_of_the_registry_is_held_when_the_server_is_asked_before_a_backup(
    with_store: Settings, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> str:
        asked.set()
        await may_answer.wait()
        return "18"

    monkeypatch.setattr("ods.tenants.known_store.require_programs", slow)
    async with running(with_store, NOBODY) as app, client_of(app, headers=bearer(with_store)) as api:
        instance = (await api.post(INSTANCES, json=body())).json()["id"]
        await rows.execute(registries.COMPLETE_ALL)
        path = f"{INSTANCES}/{instance}/backups"
        first = asyncio.create_task(api.post(path, headers=keyed()))
        await asked.wait()
        assert await rows.fetchval(_IN_TRANSACTION) == 0
        may_answer.set()
        assert (await first).status_code == 202

        async def away(_: object) -> str:
            raise BackupFaultError("The server is away.", outage=True)

        monkeypatch.setattr("ods.tenants.known_store.require_programs", away)
        assert (await api.post(path, headers=keyed())).content == (await first).content
        assert (await api.post(path, headers=keyed("another key"))).status_code == 503
