"""The audit trail: what is written, for whom, and that writing it holds up no request."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api import audit_recorder
from api.audit_recorder import AuditRecorder
from ods.embedded.polling import wait_until
from ods.observability.logs import JsonFormatter
from ods.registry.audit import AuditEntry, AuditTrail
from ods.registry.clients.registration import RegistrationWindow
from ods.registry.clock import RegistryClock
from ods.settings.settings import Settings
from tests.api.server import Server
from tests.api.service import NOBODY, bearer, client_of, running, tokens
from tests.secret_search import as_secret
from tests.servers import session

AUDIT = "/v2/audit"
INSTANCES = "/v2/dbInstances"
NEW = {"name": "Audited", "databaseTemplate": "Minimal"}
SECRET = as_secret("A-secret+with%41ll 4 kinds: abcdefgh")
REGISTRATION = {"ClientId": "an-app", "ClientSecret": SECRET, "DisplayName": "An app"}
GRANT = {
    "grant_type": "client_credentials",
    "client_id": "an-app",
    "client_secret": SECRET,
    "scope": "edfi_admin_api/full_access",
}
NETWORKS = 10
ENTRY = AuditEntry("a-client", "192.0.2.1", "POST", "/v2/sweep", None, None, 202, None)
REFUSAL = replace(ENTRY, client=None, status=401)


async def entries(api: httpx.AsyncClient, **query: int | str) -> list[dict[str, Any]]:
    answer = await api.get(AUDIT, params=query)
    assert answer.status_code == 200
    listed: list[dict[str, Any]] = answer.json()
    return listed


async def test_who_what_when_and_outcome_are_written_when_an_instance_is_requested(
    api: httpx.AsyncClient,
) -> None:
    accepted = (await api.post(INSTANCES, json=NEW)).json()
    (entry,) = await entries(api)

    assert entry.pop("id") > 0
    age = datetime.now(UTC) - datetime.fromisoformat(entry.pop("at"))
    assert timedelta(0) <= age < timedelta(seconds=10)
    assert entry == {
        "client": "a-client",
        "address": "127.0.0.1",
        "method": "POST",
        "path": INSTANCES,
        "instanceId": accepted["id"],
        "jobId": accepted["jobId"],
        "status": 202,
        "title": None,
        "omitted": 0,
        "sentBytes": None,
    }


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "title"),
    [
        ("POST", INSTANCES, {"json": {}}, 400, "Validation failed"),
        ("POST", INSTANCES, {"content": b"{"}, 415, "The content type is not supported"),
        ("POST", INSTANCES, {"content": b"x" * 2_000_000}, 413, "The body is too large"),
        ("DELETE", f"{INSTANCES}/77", {}, 404, "Not found: dbInstance with ID 77."),
        ("PUT", f"{INSTANCES}/77", {"json": {"protected": True}}, 404, "Not found: dbInstance with ID 77."),
        ("POST", f"{INSTANCES}/77/retry", {}, 404, "Not found: dbInstance with ID 77."),
        ("POST", "/v2/sweep", {}, 503, "Temporal cannot be reached"),
        ("PUT", INSTANCES, {}, 405, "Method Not Allowed"),
        ("POST", "/v2/nowhere", {}, 404, "Not Found"),
        ("POST", "/connect/register", {"data": {}}, 400, "Validation failed"),
        ("POST", "/connect/token", {"data": {}}, 401, "invalid_client"),
    ],
)
async def test_reason_is_written_when_a_change_is_refused(
    api: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int, title: str
) -> None:
    assert (await api.request(method, path, **options)).status_code == status
    (entry,) = await entries(api)

    assert (entry["method"], entry["path"], entry["status"]) == (method, path, status)
    assert entry["title"].startswith(title)
    assert entry["client"] == (None if path.startswith("/connect") else "a-client")
    assert entry["instanceId"] == (77 if "77" in path else None)
    assert entry["jobId"] is None


async def test_conflict_is_written_with_the_instance_when_its_state_forbids_a_change(
    api: httpx.AsyncClient,
) -> None:
    accepted = (await api.post(INSTANCES, json=NEW)).json()
    assert (await api.delete(f"{INSTANCES}/{accepted['id']}")).status_code == 409
    entry = (await entries(api))[0]

    assert (entry["status"], entry["instanceId"], entry["jobId"]) == (409, accepted["id"], None)
    assert entry["title"] == "The instance's state does not allow this"


@pytest.mark.parametrize("path", [INSTANCES, "/v2/nowhere", AUDIT])
async def test_refusal_is_written_when_a_reader_has_no_valid_token(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, path: str
) -> None:
    await stranger.get(path)
    (entry,) = await entries(api)

    assert (entry["client"], entry["path"], entry["status"]) == (None, path, 401)
    assert entry["title"] == "A bearer token is needed"


async def test_client_is_written_when_its_token_has_not_the_scope(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, settings: Settings
) -> None:
    token = tokens(settings).issue("a-client", "another")
    answer = await stranger.get(INSTANCES, headers={"Authorization": f"Bearer {token}"})
    (entry,) = await entries(api)

    assert answer.status_code == 403
    assert (entry["client"], entry["status"]) == ("a-client", 403)


async def test_nothing_is_written_when_a_client_reads(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    for path in (INSTANCES, f"{INSTANCES}/1", "/v2/odsInstances", AUDIT, f"{INSTANCES}?limit=-1"):
        await api.get(path)
    for path in ("/", "/health", "/docs", "/nowhere"):
        await stranger.get(path)
    assert await entries(api) == []


async def test_client_is_written_when_it_registers_and_gets_a_token(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    await stranger.post("/connect/register", data=REGISTRATION)
    await stranger.post("/connect/token", data=GRANT)
    await stranger.post("/connect/token", data=GRANT | {"client_secret": "wrong"})
    refused, issued, registered = await entries(api)

    assert (registered["client"], registered["status"]) == ("an-app", 200)
    assert (issued["client"], issued["status"]) == ("an-app", 200)
    # Not who it says it is: that was not proven.
    assert (refused["client"], refused["status"], refused["title"]) == (None, 401, "invalid_client")


async def test_no_secret_is_written_wherever_a_request_has_it(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, registry_dsn: str
) -> None:
    form = {"data": REGISTRATION}
    for client in (api, stranger):
        token = client.headers.get("Authorization", "Bearer none").removeprefix("Bearer ")
        await client.post("/connect/register", **form)  # type: ignore[arg-type] # httpx's own
        await client.post("/connect/token", data=GRANT, params={"client_secret": SECRET})
        await client.post("/connect/token", data=GRANT, auth=("an-app", SECRET))
        await client.post(INSTANCES, json=NEW | {"name": SECRET}, params={"password": SECRET})
        await client.post(INSTANCES, json=NEW, headers={"X-Secret": SECRET, "Cookie": f"a={SECRET}"})
        await client.delete(f"{INSTANCES}/1?token={token}#{token}")
    async with session(registry_dsn) as connection:
        rows = await connection.fetch("SELECT to_jsonb(audit)::text FROM adminapi.audit")
    written = "\n".join(row[0] for row in rows)

    assert len(rows) > 6
    assert api.headers["Authorization"].removeprefix("Bearer ") not in written
    assert SECRET not in json.dumps(await entries(api))
    for piece in (SECRET, SECRET[:16], "client_secret", "password"):
        assert piece not in written


async def test_newest_come_first_when_the_trail_is_paged(api: httpx.AsyncClient) -> None:
    for number in range(4):
        await api.delete(f"{INSTANCES}/{number}")
    assert [entry["instanceId"] for entry in await entries(api, limit=3)] == [3, 2, 1]
    assert [entry["instanceId"] for entry in await entries(api, offset=3, limit=3)] == [0]
    assert await entries(api, offset=9) == []
    assert (await api.get(AUDIT, params={"limit": -1})).status_code == 400


async def test_only_what_fits_is_listed_when_the_trail_is_filtered(api: httpx.AsyncClient) -> None:
    for number in (3, 4):
        await api.delete(f"{INSTANCES}/{number}")
    await api.post(INSTANCES, json={"name": "Grand Bend", "databaseTemplate": "Minimal"})
    assert [entry["instanceId"] for entry in await entries(api, instanceId=3)] == [3]
    assert [entry["status"] for entry in await entries(api, refused="true")] == [404, 404]
    (newest, *_) = await entries(api)
    assert newest in await entries(api, client=newest["client"])
    assert await entries(api, client="another") == []
    assert await entries(api, client="\0") == []


async def counted(app: FastAPI) -> None:
    """Have written what was counted, as every minute does it."""
    for services in app.state.tenancy:
        await services.recorder.flush()


async def test_one_entry_counts_the_others_when_a_stranger_scans(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, app: FastAPI
) -> None:
    for number in range(50):
        await stranger.get(f"/v2/{number}")
    (first,) = await entries(api)
    assert (first["path"], first["omitted"]) == ("/v2/0", 0)  # it is told at once
    await counted(app)
    last, _ = await entries(api)
    assert (last["path"], last["omitted"], last["address"]) == ("/v2/49", 48, "127.0.0.1")

    for number in range(7):
        await stranger.get(f"/v2/{number}")
    await counted(app)
    assert [(entry["path"], entry["omitted"]) for entry in await entries(api)][:2] == [
        ("/v2/6", 6),
        ("/v2/49", 48),
    ]
    await counted(app)  # a minute without any
    await stranger.get("/v2/again")
    newest = (await entries(api))[0]
    assert (newest["path"], newest["omitted"]) == ("/v2/again", 0)


async def test_networks_are_counted_apart_when_several_are_refused(
    api: httpx.AsyncClient, app: FastAPI
) -> None:
    for address in ("192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.1", "2001:db8:0:1::1"):
        async with client_of(app, address=address) as client:
            await client.get(INSTANCES)
    await counted(app)

    assert [(entry["address"], entry["omitted"]) for entry in reversed(await entries(api))] == [
        ("192.0.2.1", 0),
        ("2001:db8::1", 0),
        ("2001:db8:0:1::1", 0),
        ("2001:db8::/64", 0),
        ("192.0.2.1", 0),
    ]


async def test_counts_are_written_when_the_service_stops(settings: Settings, registry_dsn: str) -> None:
    async with running(settings, NOBODY) as app, client_of(app) as client:
        for number in range(3):
            await client.get(f"/v2/{number}")
    async with session(registry_dsn) as connection:
        rows = await connection.fetch("SELECT path, omitted FROM adminapi.audit ORDER BY id")
    assert [tuple(row) for row in rows] == [("/v2/0", 0), ("/v2/2", 1)]


async def test_every_change_is_written_when_strangers_are_counted(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, app: FastAPI
) -> None:
    for number in range(25):
        await stranger.get(INSTANCES)
        await api.delete(f"{INSTANCES}/{number}")
    await counted(app)
    written = await entries(api, limit=1000)

    assert len([entry for entry in written if entry["client"]]) == 25
    assert [entry["omitted"] for entry in written if not entry["client"]] == [23, 0]


async def test_text_is_marked_when_it_is_cut_or_cleaned(api: httpx.AsyncClient, registry_dsn: str) -> None:
    await api.delete(f"{INSTANCES}/{'x' * 2000}")
    await api.delete(f"{INSTANCES}/%00%1b[31m%ff%0a")
    cleaned, cut = await entries(api)

    assert (len(cut["path"]), cut["path"][-2:]) == (512, "x…")
    assert (len(cut["title"]), cut["title"][-2:]) == (256, "x…")
    assert cleaned["path"] == f"{INSTANCES}/%00%1b[31m%ff%0a"
    assert all(sign.isprintable() for sign in cleaned["title"])
    assert "\N{REPLACEMENT CHARACTER}[31m" in cleaned["title"]


@pytest.fixture
async def without_audit(registry_dsn: str) -> AsyncIterator[None]:
    async with session(registry_dsn) as connection:
        await connection.execute("ALTER TABLE adminapi.audit RENAME TO hidden")
        yield
        await connection.execute("ALTER TABLE adminapi.hidden RENAME TO audit")


@pytest.mark.usefixtures("without_audit")
async def test_request_is_granted_and_one_line_tells_when_the_trail_cannot_be_written(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await api.post(INSTANCES, json=NEW)).status_code == 202
    lines = [record.getMessage() for record in caplog.records if record.name == "api.audit_recorder"]

    assert len(lines) == 1
    assert lines[0].startswith(
        "A POST that was answered 202 was not written to the audit trail: ProgrammingError"
    )
    assert "adminapi" not in lines[0]


@pytest.fixture
async def without_jobs(registry_dsn: str) -> AsyncIterator[None]:
    async with session(registry_dsn) as connection:
        await connection.execute("ALTER TABLE adminapi.jobstatuses RENAME TO hidden")
        yield
        await connection.execute("ALTER TABLE adminapi.hidden RENAME TO jobstatuses")


@pytest.mark.usefixtures("without_jobs")
async def test_fault_is_written_when_it_was_not_foreseen(api: httpx.AsyncClient) -> None:
    assert (await api.post(INSTANCES, json=NEW)).status_code == 500
    (entry,) = await entries(api)
    assert (entry["status"], entry["title"]) == (500, "Internal server error")


@pytest.mark.timed
async def test_answer_comes_at_once_when_writing_the_trail_takes_long(
    serving: Server,
) -> None:
    headers = bearer(serving.settings)
    dsn = serving.settings.admin_dsn.get_secret_value()
    async with (
        session(dsn) as connection,
        httpx.AsyncClient(base_url=serving.url, headers=headers) as client,
    ):
        assert (await client.delete(f"{INSTANCES}/1")).status_code == 404
        async with connection.transaction():
            await connection.execute("LOCK TABLE adminapi.audit IN ACCESS EXCLUSIVE MODE")
            started = time.perf_counter()
            # More than the pool has connections, one after the other on one connection of the client.
            for number in range(15):
                assert (await client.delete(f"{INSTANCES}/{number}")).status_code == 404
            assert time.perf_counter() - started < 2

        async def all_are_written() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM adminapi.audit") == 16)

        await wait_until(all_are_written, 10)


async def nothing_old() -> bool:
    return False


class Trail:
    """Takes entries, when it may."""

    def __init__(self) -> None:
        self.written: list[AuditEntry] = []
        self.open = asyncio.Event()
        self.open.set()

    async def record(self, entry: AuditEntry) -> None:
        await self.open.wait()
        self.written.append(entry)


async def test_few_entries_are_written_when_strangers_have_very_many_addresses() -> None:
    trail_ = Trail()
    recorder = AuditRecorder(trail_.record, nothing_old)
    for minute in range(3):
        for number in range(1000):
            await recorder.record(replace(REFUSAL, address=f"2001:db8:{minute}:{number:x}::1"))
        await recorder.flush()

    # Ten are told at once in each minute, and one stands for the others.
    assert len(trail_.written) == 3 * (NETWORKS + 1)
    assert [entry.omitted for entry in trail_.written if entry.address == "other addresses"] == [989] * 3


async def test_change_is_written_when_another_client_is_refused_again_and_again() -> None:
    trail_ = Trail()
    trail_.open.clear()
    recorder = AuditRecorder(trail_.record, nothing_old)
    refusal, change = replace(REFUSAL, client="a-client"), replace(ENTRY, client="another-client")
    waiting = [asyncio.create_task(recorder.record(refusal)) for _ in range(300)]
    waiting.append(asyncio.create_task(recorder.record(change)))
    await asyncio.sleep(0)  # lets each of them come as far as it can
    trail_.open.set()
    await asyncio.gather(*waiting)
    await recorder.flush()
    assert change in trail_.written
    assert sum(1 + entry.omitted for entry in trail_.written if entry.client == "a-client") == 300
    assert len(trail_.written) < 70


async def test_entries_are_given_up_and_told_when_too_many_wait(caplog: pytest.LogCaptureFixture) -> None:
    trail_ = Trail()
    trail_.open.clear()
    recorder = AuditRecorder(trail_.record, nothing_old)
    waiting = [asyncio.create_task(recorder.record(ENTRY)) for _ in range(150)]
    await asyncio.sleep(0)  # lets each of them come as far as it can
    assert sum(task.done() for task in waiting) == 50
    assert caplog.text.count("was not written to the audit trail: too many are waiting") == 50
    trail_.open.set()
    await asyncio.gather(*waiting)
    assert len(trail_.written) == 100


async def test_entries_are_given_up_and_told_when_the_registry_does_not_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_recorder, "_TIMEOUT_SECONDS", 0.05)
    trail_ = Trail()
    trail_.open.clear()
    recorder = AuditRecorder(trail_.record, nothing_old)
    await asyncio.gather(*(recorder.record(ENTRY) for _ in range(5)))
    assert caplog.text.count("was not written to the audit trail: TimeoutError") == 5
    trail_.open.set()
    await recorder.record(ENTRY)
    assert trail_.written == [ENTRY]


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What the logger of the trail has written, as ODS_LOG_FORMAT=json writes it, but the time."""
    formatter = JsonFormatter()
    lines = [json.loads(formatter.format(line)) for line in caplog.records if line.name == "ods.audit"]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


async def test_entry_is_a_line_of_the_log_too_when_it_is_recorded(
    api: httpx.AsyncClient, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ods.audit")
    accepted = (await api.post(INSTANCES, json=NEW)).json()
    await RegistrationWindow(engine).close("operator@here")
    shared = {"level": "INFO", "logger": "ods.audit", "omitted": 0}
    by_client, by_command = lines_of(caplog)
    assert by_client.pop("request_id")
    assert by_client == shared | {
        "message": f"POST {INSTANCES} 202",
        "tenant": "default",
        "instance_id": accepted["id"],
        "ods_instance_id": accepted["odsInstanceId"],
        "job_id": accepted["jobId"],
        "client": "a-client",
        "address": "127.0.0.1",
        "method": "POST",
        "path": INSTANCES,
        "status": 202,
    }
    assert (
        by_command.items()
        >= shared.items()
        | {
            "message": "CLI ods registration close 200",
            "client": "command line",
            "address": "operator@here",
            "method": "CLI",
            "path": "ods registration close",
            "status": 200,
        }.items()
    )


async def test_entry_is_in_the_log_when_the_registry_refuses_it(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_entry: AuditEntry) -> None:
        raise OSError

    caplog.set_level(logging.INFO, "ods.audit")
    await AuditRecorder(refuse, nothing_old, "tenant1").record(ENTRY)
    (line,) = lines_of(caplog)
    assert (line["tenant"], line["client"], line["path"]) == ("tenant1", "a-client", "/v2/sweep")


@pytest.fixture
async def aged(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on a registry with 2500 entries that are too old, and two that are not."""
    async with session(registry_dsn) as connection:
        await connection.execute("UPDATE adminapi.installation SET passat = timezone('utc', now())")
        for days, number in ((401, 2500), (399, 2)):
            await connection.execute(
                "INSERT INTO adminapi.audit (at, address, method, path, status, omitted)"
                " SELECT timezone('utc', now()) - make_interval(days => $1), '192.0.2.1', 'POST', '/', 202, 0"
                " FROM generate_series(1, $2)",
                days,
                number,
            )
        yield connection
        await connection.execute("UPDATE adminapi.installation SET passat = NULL")


async def test_old_entries_are_removed_in_batches_when_the_service_runs(
    settings: Settings, aged: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_recorder, "_COUNTING_SECONDS", 0.05)
    left = "SELECT count(*) FROM adminapi.audit"
    async with running(settings, NOBODY):

        async def only_new_ones_are_left() -> bool:
            return bool(await aged.fetchval(left) == 2)

        await wait_until(only_new_ones_are_left, 10)
    assert await aged.fetchval(left) == 2


async def test_old_entries_stay_when_the_clock_may_be_wrong(
    settings: Settings, aged: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass has run for days: it may have been set ahead, and by a wrong year all entries are too old."""
    monkeypatch.setattr(audit_recorder, "_COUNTING_SECONDS", 0.05)
    monkeypatch.setattr(audit_recorder, "_COUNTS_PER_PRUNING", 1)
    asked = asyncio.Event()

    async def told(clock: RegistryClock) -> bool:
        steady = await is_steady(clock)
        asked.set()
        return steady

    is_steady = RegistryClock.is_steady
    monkeypatch.setattr(RegistryClock, "is_steady", told)
    await aged.execute("UPDATE adminapi.installation SET passat = passat - interval '500 days'")
    async with running(settings, NOBODY):
        for _ in range(2):
            await asyncio.wait_for(asked.wait(), 10)
            asked.clear()
    assert await aged.fetchval("SELECT count(*) FROM adminapi.audit") == 2502


async def test_batch_is_small_when_old_entries_are_removed(
    engine: AsyncEngine, aged: asyncpg.Connection
) -> None:
    audit, retention = AuditTrail(engine), timedelta(days=400)
    assert [await audit.prune(retention) for _ in range(4)] == [True, True, False, False]
    assert await aged.fetchval("SELECT count(*) FROM adminapi.audit") == 2


async def test_pruning_is_tried_again_and_told_when_the_registry_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_recorder, "_COUNTING_SECONDS", 0.001)
    monkeypatch.setattr(audit_recorder, "_COUNTS_PER_PRUNING", 1)
    asked = asyncio.Event()

    async def prune() -> bool:
        if not caplog.text.count("Old entries stay in the audit trail for now: OSError"):
            raise OSError
        asked.set()
        return False

    keeping = asyncio.create_task(AuditRecorder(Trail().record, prune).keep())
    await asyncio.wait_for(asked.wait(), 10)
    keeping.cancel()
