"""HTTP/1.1 as uvicorn speaks it, with time limits for clients that do not end a request or take no answer.

uvicorn itself limits only how long a connection may be silent between two requests. The API is started with
`--http api.http.server_protocol:TimedProtocol`.
"""

import asyncio
import socket
import struct
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.http.forwarded_host import ForwardedHost
from api.http.protective_headers import PROTECTIVE_HEADERS

_READ_SECONDS = 10
"""How long the head of a request is waited for, and the rest of a body that was answered before its end."""

_TAKE_SECONDS = 30
"""How long a client may take nothing of an answer that waits for it."""
_CHECKS = 10
"""How often within this time it is checked how much the client has taken."""
_UNSENT_BYTES = 64 * 1024
"""What the system buffers of an answer before the network takes it. By default, these are megabytes: what the
client takes would be noticed here only when it has taken most of them."""
_RESET = struct.pack("ii", 1, 0)
"""Of `SO_LINGER`: the system forgets what the client has not taken, and resets the connection."""

LOST = "lost"
"""In the state of a request: its connection was lost before it was answered. What is sent goes nowhere."""
ENDLESS = "endless"
"""In the state of a request: its answer is a stream that ends only with the connection."""


class TimedProtocol(H11Protocol):
    """Closes a connection that is not in the service of a request for too long.

    While a request is served, its endpoint decides how long the body is waited for (`api.http.parsing`).

    A connection is reset whose client takes nothing of an answer for too long; what the endpoint holds for it
    is released. Little of an answer waits here meanwhile: an endpoint goes on with it when its last piece was
    passed to the system, which has a bound as well.

    When the server stops, streams of events are closed: it would wait for their end for ever.

    What a proxy that the operator has named says about the client's host is passed on to the application.
    """

    _deadline: asyncio.TimerHandle | None = None
    _answer_deadline: asyncio.TimerHandle | None = None

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as uvicorn has them
        super().__init__(config, *arguments, **options)
        if config.proxy_headers:
            self.app = ForwardedHost(self.app, config.forwarded_allow_ips)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that each byte that waits is told of
        connection: socket.socket = transport.get_extra_info("socket")
        if connection.family in {socket.AF_INET, socket.AF_INET6} and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._unwatch()
        self._unwatch_answer()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.scope["state"][LOST] = True
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Let the request that is served end; but a stream, which ends by itself never, is closed at once."""
        super().shutdown()
        if self.cycle is not None and self.cycle.scope["state"].get(ENDLESS):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with the headers that the application gives to all other answers."""
        own = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        head = h11.Response(status_code=400, headers=[*PROTECTIVE_HEADERS, *own], reason=b"Bad Request")
        for event in (head, h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def pause_writing(self) -> None:
        """Wait for the client to take what is buffered of an answer."""
        super().pause_writing()
        self._watch_answer(self.transport.get_write_buffer_size(), self.loop.time())

    def resume_writing(self) -> None:
        """Go on with the answer: the system has all of it so far."""
        self._unwatch_answer()
        super().resume_writing()

    def _watch_answer(self, left: int, taken_at: float) -> None:
        """Reset the connection if nothing was taken for too long, or check again later.

        Args:
            left: the bytes that were buffered at the last check.
            taken_at: the time of the loop at which the client had taken some.
        """
        now, left_now = self.loop.time(), self.transport.get_write_buffer_size()
        if left_now < left:
            taken_at = now
        elif now - taken_at >= _TAKE_SECONDS:
            self._reset()
            return
        self._answer_deadline = self.loop.call_later(
            _TAKE_SECONDS / _CHECKS, self._watch_answer, left_now, taken_at
        )

    def _unwatch_answer(self) -> None:
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def _reset(self) -> None:
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(_READ_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
