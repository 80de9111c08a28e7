"""The id of a request: on its answer, and in the lines of the log that it leaves."""

import json
import signal

import httpx
import pytest

from ods.settings.settings import Settings
from tests.api import server
from tests.api.service import NOBODY, bearer, client_of, running

HEADER = "X-Request-ID"


@pytest.mark.parametrize(
    "given", ["a", "0af76519-16cd-43dd-8448-eb211c80319c", "Root=1-67891233-abcdef", "_._", "x" * 128]
)
async def test_id_that_the_client_gives_is_answered(api: httpx.AsyncClient, given: str) -> None:
    answer = await api.get("/v2/dbInstances", headers={HEADER: given})
    assert answer.headers.get_list(HEADER) == [given]


@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", "a\tb", "a/b", "ü", 'a"b', "a,b", "a;b"])
async def test_id_is_a_new_one_when_the_client_gives_none_that_is_well_formed(
    api: httpx.AsyncClient, given: str
) -> None:
    answers = [await api.get("/v2/dbInstances", headers={HEADER.encode(): given.encode()}) for _ in range(2)]
    first, second = (answer.headers[HEADER] for answer in answers)
    assert first != second
    assert len(first) == 32
    assert first.isalnum()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/v3/dbInstances", 400),
        ("PATCH", "/v2/dbInstances", 405),
        ("POST", "/v2/dbInstances", 400),
        ("GET", "/console/static/nothing.css", 404),
        ("STRANGE", "/v2/dbInstances", 405),
    ],
)
async def test_every_answer_has_an_id(api: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await api.request(method, path)
    assert answer.status_code == status
    assert answer.headers.get_list(HEADER)


async def test_refusals_and_unforeseen_faults_have_an_id(
    idle_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:
        refused = await client.get("/v2/dbInstances", headers={HEADER: "mine"})
        assert (refused.status_code, refused.headers[HEADER]) == (401, "mine")
        app.state.tenancy = None  # what no code foresees
        broken = await client.get("/v2/dbInstances", headers={HEADER: "mine"})
        assert (broken.status_code, broken.headers[HEADER]) == (500, "mine")


async def test_lines_tell_what_is_known_of_their_request(settings: Settings) -> None:
    body = json.dumps({"name": "Secret Name", "databaseTemplate": "Minimal"}).encode()
    token = bearer(settings)["Authorization"]
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with server.serving(settings, ODS_LOG_FORMAT="json") as started:
        answer = await started.ask(
            "POST /v2/dbInstances",
            f"Authorization: {token}",
            "Content-Type: application/json",
            "X-Request-ID: mine-1",
            f"traceparent: 00-{trace}-b7ad6b7169203331-01",
            body=body,
        )
        assert answer.status == 202
        await started.ask("GET /v2/jobs", "X-Request-ID: mine-2")
        log = await started.stop()
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (created,) = [it for it in entries if it["logger"] == "uvicorn.access" and "mine-1" in it.values()]
    assert created["message"].endswith('"POST /v2/dbInstances HTTP/1.1" 202')
    job = created["job_id"]
    assert job == f"CreateInstanceJob-{created['ods_instance_id']}-1"
    assert created["instance_id"] == int(answer.headers["location"].rpartition("/")[2])
    assert (created["tenant"], created["client"], created["trace_id"]) == ("default", "a-client", trace)
    (waits,) = [it for it in entries if it["logger"] == "api.job_dispatcher" and "job_id" in it]
    assert (waits["job_id"], waits["request_id"]) == (job, "mine-1")  # Temporal is away
    refused = [it for it in entries if "mine-2" in it.values()]
    assert sorted(it["logger"] for it in refused) == ["ods.audit", "uvicorn.access"]
    assert not [it for it in refused if "job_id" in it or "client" in it]
    assert token.removeprefix("Bearer ") not in log
    assert "Secret Name" not in log


@pytest.mark.usefixtures("hangup_heard")
async def test_level_changes_when_the_process_gets_sighup(settings: Settings) -> None:
    async with server.serving(settings, ODS_LOG_LEVEL="warning") as started:
        await started.ask("GET /v2/jobs")
        started.send_signal(signal.SIGHUP)
        await started.ask("GET /v2/tenants")
        log = await started.stop()
    assert '"GET /v2/jobs HTTP/1.1"' not in log  # the entries of the audit trail are always there
    assert "Lines are logged from level DEBUG on." in log
    assert '"GET /v2/tenants HTTP/1.1" 401 [tenant=default request_id=' in log
