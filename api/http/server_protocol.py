"""HTTP/1.1 as uvicorn speaks it, with a time limit for clients that begin a request and do not end it.

uvicorn itself limits only how long a connection may be silent between two requests. The API is started with
`--http api.http.server_protocol:TimedProtocol`.
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.http.forwarded_host import ForwardedHost

_READ_SECONDS = 10
"""How long the head of a request is waited for, and the rest of a body that was answered before its end."""

ENDLESS = "endless"
"""In the state of a request: its answer is a stream that ends only with the connection."""


class TimedProtocol(H11Protocol):
    """Closes a connection that is not in the service of a request for too long.

    While a request is served, its endpoint decides how long the body is waited for (`api.http.parsing`).

    When the server stops, streams of events are closed: it would wait for their end for ever.

    What a proxy that the operator has named says about the client's host is passed on to the application.
    """

    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as uvicorn has them
        super().__init__(config, *arguments, **options)
        if config.proxy_headers:
            self.app = ForwardedHost(self.app, config.forwarded_allow_ips)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._unwatch()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Let the request that is served end; but a stream, which ends by itself never, is closed at once."""
        super().shutdown()
        if self.cycle is not None and self.cycle.scope["state"].get(ENDLESS):
            self.transport.close()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(_READ_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
