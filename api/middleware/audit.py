"""Which requests get an entry in the audit trail, and what it says.

These are calls that change something, granted or not, and refusals of any call. Downloads write entries of
their own (`api.audited_download`).
"""

from dataclasses import replace
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.addresses import peer
from api.http.audit_context import audit_context, begin_audit
from api.middleware.statuses import WatchedSend
from ods.registry.audit import AuditEntry

READING = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing."""
_REFUSED = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class AuditMiddleware:
    """Has the recorder write a request down after it was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin_audit(HTTPConnection(scope))
        watched = WatchedSend(send)
        try:
            await self._app(scope, receive, watched)
        finally:
            services = scope["state"].get("services")  # a request for no tenant is in no tenant's trail
            if services and (_changes(HTTPConnection(scope)) or watched.status in _REFUSED):
                for entry in _entries(HTTPConnection(scope), watched.status):
                    await services.recorder.record(entry)


def _changes(connection: HTTPConnection) -> bool:
    context = audit_context(connection)
    leaves_all = context.is_dry_run or context.is_shed  # to write down what was shed would be load as well
    return context.is_sign_in or (connection.scope["method"] not in READING and not leaves_all)


def _entries(connection: HTTPConnection, status: int) -> list[AuditEntry]:
    """The entry of the request, and one for each further instance that it is about."""
    first = entry_of(connection, status)
    further = audit_context(connection).further
    return [first, *(replace(first, instance=instance, job=job) for instance, job in further)]


def entry_of(connection: HTTPConnection, status: int) -> AuditEntry:
    """The entry of the request, which is answered with this status."""
    context = audit_context(connection)
    return AuditEntry(
        client=context.client,
        address=peer(connection),
        method=connection.scope["method"],
        path=connection.scope["raw_path"].decode(errors="backslashreplace"),
        instance=context.instance,
        job=context.job,
        status=status,
        title=context.title,
    )
