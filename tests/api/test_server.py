"""The API as it runs in production: a server process of its own, configured by its environment."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from ods.embedded.ports import free_port
from ods.settings.settings import Settings
from tests import preloaded
from tests.api.server import Server, command, environment
from tests.api.service import bearer
from tests.secret_search import as_secret
from tests.servers import ENCRYPTION_KEY, INSTANCE_PASSWORD, SERVICE_PASSWORD, TOKEN_KEY, session

SECRETS = (ENCRYPTION_KEY, INSTANCE_PASSWORD, SERVICE_PASSWORD, TOKEN_KEY)
CLIENT_SECRET = as_secret("Secret of a client: 0123456789 abcdef")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ODS_ENCRYPTION_KEY", "not a key"),
        ("ODS_INSTANCE_CONNECTION_STRING", "WrongConnection"),
        ("TEMPORAL_CONFIG_FILE", str(Path(__file__))),
    ],
)
async def test_server_ends_with_one_clean_line_when_a_setting_is_invalid(
    idle_settings: Settings, variable: str, value: str
) -> None:
    variables = environment(idle_settings, **{variable: value})
    run = await asyncio.to_thread(preloaded.run, *command(free_port()), env=variables, seconds=20)
    lines = (run.stdout + run.stderr).splitlines()

    assert run.returncode == 1
    assert lines[0] == "The API cannot start."
    assert lines[1].startswith(variable)
    assert len(lines) == 2
    assert value not in lines[1]


@pytest.mark.parametrize("program", [("worker",), command(free_port())])
async def test_misspelt_setting_is_named_when_a_process_starts(
    idle_settings: Settings, program: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = environment(
            idle_settings, ODS_FINAL_BAKUP="true", ODS_METRICS_PORT=str(listener.getsockname()[1])
        )
        run = await asyncio.to_thread(preloaded.run, *program, env=variables, seconds=20)
    assert run.returncode != 0  # the port is taken
    assert "WARNING" in run.stderr
    assert "ODS_FINAL_BAKUP has no effect: no setting has this name." in run.stderr


async def test_no_secret_and_no_exception_is_told_or_logged_when_requests_meet_faults(
    serving: Server,
) -> None:
    told = []
    async with httpx.AsyncClient(base_url=serving.url, headers=bearer(serving.settings)) as client:
        form = {"ClientId": "x", "ClientSecret": CLIENT_SECRET, "DisplayName": "x"}
        told.append(await client.post("/connect/register", data=form))
        grant = {"grant_type": "client_credentials", "client_id": "x", "client_secret": CLIENT_SECRET}
        told.append(await client.post("/connect/token", data=grant))
        body = {"name": "Logged", "databaseTemplate": "Minimal"}
        told.append(await client.post("/v2/dbInstances", json=body))
        told.append(await client.get("/health"))
        async with session(serving.settings.admin_dsn.get_secret_value()) as connection:
            await connection.execute("ALTER TABLE adminapi.jobstatuses RENAME TO hidden")
            told.append(await client.get("/v2/jobs/very-special-words"))
            await connection.execute("ALTER TABLE adminapi.hidden RENAME TO jobstatuses")
    log = await serving.stop()

    assert [answer.status_code for answer in told] == [200, 400, 202, 200, 500]
    for text in (log, *(answer.text for answer in told)):
        for secret in (*SECRETS, CLIENT_SECRET):
            assert secret not in text
        for trace in ("Traceback", "jobstatuses", "relation", "tcp connect error"):
            assert trace not in text
    assert "waits for the next sweep: RuntimeError at " in log
    assert "GET /v2/jobs/{jobId} answered 500: ProgrammingError at " in log
    assert '"POST /v2/dbInstances HTTP/1.1" 202' in log


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: api", b"Connection: close", *headers, b"", body])


async def test_answers_are_as_agreed_when_requests_come_as_bytes(serving: Server) -> None:
    authorization = f"Authorization: {bearer(serving.settings)['Authorization']}".encode()
    post = (b"POST /v2/dbInstances HTTP/1.1", authorization, b"Content-Type: application/json")
    new = b'{"name": "Bytes", "databaseTemplate": "Sample"}'
    accepted = await serving.answer(request(*post, b"Content-Length: %d" % len(new), body=new))
    cut = await serving.answer(request(*post, b"Content-Length: 9", body=new[:9]))
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    chunked = await serving.answer(request(*post, b"Transfer-Encoding: chunked", body=chunks))
    unauthorized = await serving.answer(request(b"GET /v2/dbInstances HTTP/1.1"))
    nul = await serving.answer(request(b"GET /v2/jobs/%00%ff HTTP/1.1", authorization))
    dots = await serving.answer(request(b"GET /v2/../v2/dbInstances HTTP/1.1"))
    malformed = await serving.answer(b"GET / nonsense\r\n\r\n")

    assert accepted.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert b"\r\nlocation: /v2/dbInstances/" in accepted
    assert cut.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"'Database Template' must not be empty." in chunked
    assert unauthorized.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n" in unauthorized
    assert unauthorized.endswith(b"\r\n\r\n")
    assert nul.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert dots.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert malformed.startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_no_fault_is_logged_when_a_client_goes_away_in_the_middle_of_its_request(
    serving: Server,
) -> None:
    token = bearer(serving.settings)["Authorization"]
    _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(
        request(
            b"POST /v2/dbInstances HTTP/1.1",
            f"Authorization: {token}".encode(),
            b"Content-Type: application/json",
            b"Content-Length: 100",
            body=b"{",
        )
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await serving.answer(request(b"GET / HTTP/1.1"))

    assert "ERROR" not in await serving.stop()
