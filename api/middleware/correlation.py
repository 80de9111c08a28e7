"""What ties together all that one request leaves: its id, its span, and what log lines say of it."""

import re
import uuid
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ods.observability.logs import describe_lines
from ods.observability.tracing import provider
from ods.observability.tracing.attributes import attributes_of
from ods.registry.instances.jobs import ods_instance_id_of

HEADER = "X-Request-ID"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._=-]{1,128}")
"""Of an id that a client gives: UUIDs, ULIDs, what load balancers make; nothing that breaks a log line."""
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class CorrelationMiddleware:
    """Gives each request an id and a span. It must be around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        request_id = given if _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with provider.tracer().start_as_current_span(
            method,
            provider.context_of(headers.get("traceparent")),
            SpanKind.SERVER,
            {"http.request.method": method, "url.scheme": scope["scheme"]},
            record_exception=False,
        ) as span:
            fields = partial(_fields, scope, request_id, provider.trace_id())
            describe_lines(fields)
            try:
                await self._app(scope, receive, answer)
            finally:
                _describe(span, scope, method, status)
                span.set_attributes(attributes_of(fields()))


def _fields(scope: Scope, request_id: str, trace_id: str | None) -> Mapping[str, object]:
    """What is known of the request by now."""
    state: Mapping[str, Any] = scope.get("state", {})
    services, audit = state.get("services"), state.get("audit")
    return {
        "tenant": services and services.tenant.name,
        "instance_id": audit and audit.instance,
        "ods_instance_id": audit and audit.job and ods_instance_id_of(audit.job),
        "job_id": audit and audit.job,
        "client": audit and audit.client,
        "request_id": request_id,
        "trace_id": trace_id,
    }


def _describe(span: Span, scope: Scope, method: str, status: int) -> None:
    """Say in the span which endpoint has answered, and how. Not the path, which clients write."""
    span.set_attribute("http.response.status_code", status)
    if (route := getattr(scope.get("route"), "path", None)) is not None:
        span.set_attribute("http.route", route)
        span.update_name(f"{method} {route}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
