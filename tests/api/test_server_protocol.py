"""Slow clients: how long a connection is kept on which neither a request nor an answer comes to its end."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from time import perf_counter

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from api.http import server_protocol
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port

READ_SECONDS = 0.5
TAKE_SECONDS = 0.5
PIECE = bytes(64 * 1024)
HEAD = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


async def answer_slowly(request: Request) -> PlainTextResponse:
    await asyncio.sleep(2 * READ_SECONDS)
    return PlainTextResponse("slow")


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("served")  # without reading the body


ended = asyncio.Event()
"""A stream has ended."""


async def stream(request: Request) -> StreamingResponse:
    ended.clear()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield request.query_params["of"].encode() or PIECE
                await asyncio.sleep(0)
        finally:
            ended.set()

    return StreamingResponse(pieces())


async def answer_at_length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(PIECE * 128)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with short timeouts."""
    monkeypatch.setattr(server_protocol, "_READ_SECONDS", READ_SECONDS)
    monkeypatch.setattr(server_protocol, "_TAKE_SECONDS", TAKE_SECONDS)
    routes = [
        *(Route("/slow", answer_slowly), Route("/", answer, methods=["GET", "POST"])),
        *(Route("/stream", stream), Route("/long", answer_at_length)),
    ]
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


def connected(port: int) -> socket.socket:
    """A connection of a client whose system takes little that the client does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


@pytest.mark.parametrize("path", ["/stream?of=", "/stream?of=event", "/long"])
async def test_connection_is_ended_when_the_client_takes_nothing_of_an_answer(port: int, path: str) -> None:
    with connected(port) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode())

        async def is_reset() -> bool:
            return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET

        await wait_until(is_reset, 5)
    if path != "/long":
        await asyncio.wait_for(ended.wait(), 1)


async def test_answer_is_sent_when_the_client_takes_it_slowly(port: int) -> None:
    loop = asyncio.get_running_loop()
    with connected(port) as client:
        await loop.sock_sendall(client, b"GET /long HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        size, started = 0, perf_counter()
        while piece := await loop.sock_recv(client, 64 * 1024):
            size += len(piece)
            await asyncio.sleep(0.01 if perf_counter() - started < 4 * TAKE_SECONDS else 0)
        assert size > len(PIECE) * 128
        assert perf_counter() - started > 4 * TAKE_SECONDS
