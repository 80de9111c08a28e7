"""A collector of traces, as OTLP over HTTP reaches it, and how tests read what it got."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ods.observability.tracing import provider
from tests.secret_search import SEARCH


class Collector:
    """What was sent, as bytes and as spans."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    @property
    def spans(self) -> list[Span]:
        """All spans, by their beginning."""
        found: list[Span] = []
        for body in self.received:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    @property
    def services(self) -> set[str]:
        """The names of the services that have sent something."""
        return {
            attribute.value.string_value
            for body in self.received
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }

    def named(self, name: str) -> list[Span]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    def trace(self, trace_id: bytes) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector that listens, and its address."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_port}"
    finally:
        SEARCH.search(b"".join(found.received), "spans")
        server.shutdown()
        serving.join()
        server.server_close()


@contextmanager
def tracing(**variables: str) -> Iterator[Collector]:
    """Traces of this process; when the block has ended, the collector has them all.

    Args:
        variables: further variables of OpenTelemetry.
    """
    with collector() as (found, address), pytest.MonkeyPatch.context() as environment:
        for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": address, **variables}.items():
            environment.setenv(name, value)
        assert provider.start("ods-tests")
        try:
            yield found
        finally:
            provider.stop()


def attributes(span: Span) -> dict[str, str | int]:
    """The attributes of a span."""
    return {
        attribute.key: getattr(attribute.value, str(attribute.value.WhichOneof("value")))
        for attribute in span.attributes
    }


def tree(spans: Iterable[Span]) -> str:
    """The spans of one trace, each below the one that has caused it; links are named by their trace."""
    known = list(spans)
    ids = {span.span_id for span in known}

    def lines(parents: set[bytes] | None, depth: int) -> Iterator[str]:
        for span in known:
            is_below = span.parent_span_id not in ids if parents is None else span.parent_span_id in parents
            if is_below:
                yield f"{'  ' * depth}{described(span)}"
                yield from lines({span.span_id}, depth + 1)

    return "\n".join(lines(None, 0))


def described(span: Span) -> str:
    """A span in a line."""
    milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    said = attributes(span)
    text = str(said.get("db.query.text", ""))[:70]
    links = "".join(f" -> trace {link.trace_id.hex()[:8]}" for link in span.links)
    return f"{span.name} ({milliseconds:.1f} ms){links} {said.get('ods.job_id', '')}{text}".rstrip()
