"""What of a request is written to the audit trail, and how: without holding anybody up.

Written are calls that change something, granted or not, and refusals of any call. Refusals of callers who
have not proven who they are are counted: one entry a minute and network tells how many there were.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import Annotated, NoReturn

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware.refusals import AnonymousRefusals
from api.security.rate_limit import peer
from logs import fault_name
from registry.audit import AuditEntry

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

_COUNTING_SECONDS = 60
"""How long refusals of one network are counted before an entry is written about them."""
_COUNTS_PER_PRUNING = 60
_PRUNING_PAUSE_SECONDS = 0.1

_logger = logging.getLogger(__name__)


@dataclass
class AuditContext:
    """What the parts of the service find out about a request."""

    client: str | None = None
    instance: int | None = None
    job: str | None = None
    title: str | None = None


def audit_context(connection: HTTPConnection) -> AuditContext:
    """Where to note what is found out about the request."""
    noted: AuditContext = connection.scope["state"]["deed"]
    return noted


AuditContextDep = Annotated[AuditContext, Depends(audit_context)]


class AuditRecorder:
    """Writes entries while the registry can take them, and gives up those it cannot.

    Args:
        write: appends one entry to the trail.
        prune: removes some entries that are too old; whether there may be more of them.
    """

    def __init__(
        self, write: Callable[[AuditEntry], Awaitable[None]], prune: Callable[[], Awaitable[bool]]
    ) -> None:
        self._write = write
        self._prune = prune
        self._slots = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._waiting = 0
        self._refusals = AnonymousRefusals()

    async def record(self, entry: AuditEntry) -> None:
        """Write `entry`, or count it."""
        anonymous = entry.client is None and entry.status >= HTTPStatus.BAD_REQUEST
        admitted = self._refusals.admit(entry) if anonymous else entry
        if admitted is not None:
            await self._attempt(admitted)

    async def keep(self) -> NoReturn:
        """Every minute write what was counted; every hour remove what is too old."""
        for counting in count():
            await asyncio.sleep(_COUNTING_SECONDS)
            await self.flush()
            if counting % _COUNTS_PER_PRUNING == 0:
                await self._prune_all()
        raise AssertionError  # there is always a next number

    async def flush(self) -> None:
        """Write what was counted."""
        await asyncio.gather(*map(self._attempt, self._refusals.take()))

    async def _prune_all(self) -> None:
        """Remove what is too old, a little at a time: requests need the registry as well."""
        try:
            while await self._prune():  # noqa: ASYNC110 - a pause, not a wait
                await asyncio.sleep(_PRUNING_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the next hour brings another try
            _logger.warning("Old entries stay in the audit trail for now: %s", fault_name(error))

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
        scope.setdefault("state", {})["deed"] = AuditContext()
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
    noted = audit_context(connection)
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
