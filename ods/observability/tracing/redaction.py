"""What of a span leaves the process: the one place that decides it.

Libraries write the texts of exceptions into spans, and names that clients and operators have chosen. Nothing
is searched for secrets: only what is known to hold none is sent.
"""

import re
from collections.abc import Sequence

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, Status
from opentelemetry.util.types import Attributes

ATTRIBUTES = {
    *("http.request.method", "http.response.status_code", "http.route", "url.scheme", "error.type"),
    *("db.system.name", "db.operation.name", "db.query.text", "db.response.status_code"),
    *("temporalWorkflowID", "temporalRunID", "temporalActivityID"),
    *("ods.tenant", "ods.instance_id", "ods.ods_instance_id", "ods.job_id", "ods.attempt", "ods.request_id"),
}
"""The attributes of spans that are sent.

Not among them: texts of exceptions, addresses and names of clients, paths and queries as they were requested,
headers, and the values of SQL statements.
"""

_EXCEPTION = "exception"
_EXCEPTION_TYPE = "exception.type"
_NAME = re.compile(r"[\w /{}.:-]{1,100}", re.ASCII)
_UNNAMED = "span"
_MESSAGE = re.compile(r"(\w*(?:Signal|Query|Update)\w*):(?!(?:hand_over|retry|abandon)\Z).*", re.DOTALL)
"""The name of a span about a message to a workflow that is not one of ours: operators send what they like."""


class RedactingExporter(SpanExporter):
    """Sends spans on without what may hold a secret or the name of a person."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`."""
        return self._exporter.export([_redacted(span) for span in spans])

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is still held back."""
        return self._exporter.force_flush(timeout_millis)


def _redacted(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=_harmless(span.name),
        context=span.context and _ids(span.context),
        parent=span.parent and _ids(span.parent),
        resource=span.resource,
        attributes=_chosen(span.attributes, ATTRIBUTES),
        events=[
            Event(_EXCEPTION, _chosen(event.attributes, {_EXCEPTION_TYPE}), event.timestamp)
            for event in span.events
            if event.name == _EXCEPTION
        ],
        links=[Link(_ids(link.context)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _harmless(name: str) -> str:
    name = _MESSAGE.sub(r"\1", name)
    return name if _NAME.fullmatch(name) else _UNNAMED


def _chosen(attributes: Attributes, names: set[str]) -> Attributes:
    return {name: value for name, value in (attributes or {}).items() if name in names}


def _ids(context: SpanContext) -> SpanContext:
    """The ids alone: senders write into the state what they like."""
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
