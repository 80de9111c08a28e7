"""Slow senders: how long a connection is kept on which a request does not come to its end."""

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api.http import server_protocol
from embedded.polling import wait_until
from embedded.ports import free_port

READ_SECONDS = 0.5
HEAD = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


async def answer_slowly(request: Request) -> PlainTextResponse:
    await asyncio.sleep(2 * READ_SECONDS)
    return PlainTextResponse("slow")


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("served")  # without reading the body


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with short timeouts."""
    monkeypatch.setattr(server_protocol, "_READ_SECONDS", READ_SECONDS)
    routes = [Route("/slow", answer_slowly), Route("/", answer, methods=["GET", "POST"])]
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=routes),
            port=port,
            http="api.http.server_protocol:TimedProtocol",
            log_config=None,
            lifespan="off",
        )
    )
    serving = asyncio.create_task(server._serve())  # noqa: SLF001 - `serve` would take over this process's signals

    async def started() -> bool:
        return server.started

    await wait_until(started, 10)
    yield port
    server.should_exit = True
    await serving


async def received(port: int, *pieces: bytes, pause: float = 0.05) -> tuple[bytes, float]:
    """What comes back until the server closes the connection, and after how many seconds it does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = perf_counter()

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        answer = b""
    sending.cancel()
    writer.close()
    return answer, perf_counter() - started


async def test_connection_is_closed_when_nothing_comes(port: int) -> None:
    answer, seconds = await received(port)
    assert answer == b""
    assert seconds < 3


async def test_connection_is_closed_when_a_head_comes_byte_by_byte(port: int) -> None:
    answer, seconds = await received(port, *([b"G"] * 200))
    assert answer == b""
    assert seconds < 3


async def test_connection_is_closed_when_a_second_head_comes_byte_by_byte(port: int) -> None:
    answer, seconds = await received(port, HEAD, *([b"G"] * 200))
    assert answer.endswith(b"served")
    assert seconds < 3


async def test_connection_is_closed_when_the_body_of_an_answered_request_has_no_end(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000\r\n\r\n"
    answer, seconds = await received(port, head, *([b"x"] * 200))
    assert answer == b"" or answer.endswith(b"served")
    assert seconds < 3


async def test_request_is_answered_when_that_takes_longer_than_a_head_may(port: int) -> None:
    slow = b"GET /slow HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
    answer, _ = await received(port, slow)
    assert answer.endswith(b"slow")


async def test_connection_serves_on_when_requests_follow_each_other(port: int) -> None:
    last = HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer, seconds = await received(port, *([HEAD] * 20), last)
    assert answer.count(b"served") == 21
    assert seconds > READ_SECONDS
