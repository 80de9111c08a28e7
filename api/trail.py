"""What of a request is written to the audit trail, and how: without holding anybody up.

Written are calls that change something, granted or not, and refusals of any call. Of callers who have not
proven who they are only so many refusals are written, so that nobody can fill the disk from outside.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limiter import RateLimiter, peer, subscriber
from instances.audit import AuditEntry
from logs import fault_name

READING = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing."""
_REFUSED = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
}

_WRITES_AT_ONCE = 2
"""Of the ten connections that requests share; the trail may not take them all from an outage's victims."""
_WRITES_WAITING = 100
_PATIENCE_SECONDS = 5

_logger = logging.getLogger(__name__)


@dataclass
class Deed:
    """What the parts of the service find out about a request."""

    client: str | None = None
    instance: int | None = None
    job: str | None = None
    title: str | None = None


def deed(connection: HTTPConnection) -> Deed:
    """Where to note what is found out about the request."""
    noted: Deed = connection.scope["state"]["deed"]
    return noted


Noting = Annotated[Deed, Depends(deed)]


class Recorder:
    """Writes entries while the registry can take them, and gives up those it cannot.

    Args:
        write: appends one entry to the trail.
    """

    def __init__(self, write: Callable[[AuditEntry], Awaitable[None]]) -> None:
        self._write = write
        self._slots = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._waiting = 0
        self._per_address = RateLimiter(burst=20, interval=60)
        self._together = RateLimiter(burst=200, interval=1)
        self._omitted = 0

    async def record(self, entry: AuditEntry) -> None:
        """Write `entry` if it is to be written."""
        if entry.client is None and entry.status >= HTTPStatus.BAD_REQUEST:
            if not self._admits_stranger(entry.address):
                self._omitted += 1
                return
            entry, self._omitted = replace(entry, omitted=self._omitted), 0
        await self._attempt(entry)

    def _admits_stranger(self, address: str) -> bool:
        return not (self._per_address.wait(subscriber(address)) or self._together.wait(""))

    async def _attempt(self, entry: AuditEntry) -> None:
        if self._waiting >= _WRITES_WAITING:
            _logger.warning("%s was not written to the audit trail: too many are waiting.", _told(entry))
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._slots:
                await self._write(entry)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the request was answered
            _logger.warning("%s was not written to the audit trail: %s", _told(entry), fault_name(error))
        finally:
            self._waiting -= 1


class AuditMiddleware:
    """Has the recorder write a request down after it was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["deed"] = Deed()
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            services = scope["state"].get("services")  # nobody's trail holds a request that is for no tenant
            if services and (scope["method"] not in READING or status in _REFUSED):
                await services.recorder.record(_entry(HTTPConnection(scope), status))


def _entry(connection: HTTPConnection, status: int) -> AuditEntry:
    noted = deed(connection)
    return AuditEntry(
        client=noted.client,
        address=peer(connection),
        method=connection.scope["method"],
        path=connection.scope["raw_path"].decode(errors="backslashreplace"),
        instance=noted.instance,
        job=noted.job,
        status=status,
        title=noted.title,
    )


def _told(entry: AuditEntry) -> str:
    return f"A {entry.method} that was answered {entry.status}"
