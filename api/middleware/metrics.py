"""Counts requests, and how long they take, by the template of their path."""

from time import perf_counter

from starlette.types import ASGIApp, Receive, Scope, Send

from api.middleware.route_table import RouteTable
from api.middleware.statuses import WatchedSend
from ods.observability.metrics.catalog import HTTP_REQUESTS, HTTP_SECONDS

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_OTHER = "other"
"""A client may make up as many methods as it likes."""
_NO_ROUTE = "none"


class MetricsMiddleware:
    """Measures each request, also one that is refused before its endpoint is found."""

    def __init__(self, app: ASGIApp, route_table: RouteTable) -> None:
        self._app = app
        self._route_table = route_table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        watched = WatchedSend(send)
        try:
            await self._app(scope, receive, watched)
        finally:
            route = self._route_table.template_of(scope) or _NO_ROUTE
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            HTTP_REQUESTS.labels(route, method, str(watched.status)).inc()
            HTTP_SECONDS.labels(route, method).observe(perf_counter() - started)
