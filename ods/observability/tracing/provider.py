"""Traces by OpenTelemetry: off unless its own variables (`OTEL_…`) say where to send them.

The SDK reads most of these variables itself: those of sampler, batches, limits, resources and exporter.
What is sent is filtered first (`ods.observability.tracing.redaction`).
"""

import os
import threading
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ods.settings.settings import InvalidSettingsError

if TYPE_CHECKING:  # the SDK is loaded only where there are traces
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

PROPAGATOR = TraceContextTextMapPropagator()
"""The one form in which contexts travel. Baggage, which may hold anything, is neither taken nor given."""

_NAME = "ods"
_PROTOCOL = "http/protobuf"
_FLUSH_SECONDS = 2
"""How long the end of a process waits until the last spans are sent."""

_provider: "TracerProvider | None" = None


def start(service: str) -> bool:
    """Begin to trace this process, if the environment wants that; returns whether it does.

    Args:
        service: the name of the service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has one.

    Raises:
        InvalidSettingsError: a variable has a value that this service does not know.
    """
    global _provider  # noqa: PLW0603 - one for each process, as its log
    exporter = _exporter()
    if exporter is None:
        return False
    # Here, so that a process without traces does not load them.
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    from ods.observability.tracing.ids import JobIdGenerator  # noqa: PLC0415
    from ods.observability.tracing.redaction import RedactingExporter  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    # Not at the exit of the interpreter, which a server that ends by a signal does not reach.
    _provider = TracerProvider(resource=resource, id_generator=JobIdGenerator(), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(RedactingExporter(exporter)))
    return True


def stop() -> None:
    """Send what is left, for at most two seconds, and trace no longer."""
    global _provider  # noqa: PLW0603 - one for each process, as its log
    if _provider is not None:
        # In a thread that the process need not wait for: the collector may be away.
        sending = threading.Thread(target=_provider.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_SECONDS)
        _provider = None


def is_on() -> bool:
    """Whether this process is traced."""
    return _provider is not None


def tracer() -> Tracer:
    """What makes spans; without traces, spans that are not kept."""
    return _provider.get_tracer(_NAME) if _provider is not None else NoOpTracer()


def trace_id() -> str | None:
    """The id of the trace that this task is in, as W3C writes it; None if it is in none."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def context_of(traceparent: str | None) -> Context:
    """The context that a request comes from, as its header `traceparent` says.

    `tracestate`, in which senders write what they like, is not taken.
    """
    accepted = "tracecontext" in _words("OTEL_PROPAGATORS", "tracecontext,baggage")
    return PROPAGATOR.extract({"traceparent": traceparent} if traceparent and accepted else {}, Context())


def _exporter() -> "SpanExporter | None":
    """Where the environment wants spans to go; None if nowhere.

    Raises:
        InvalidSettingsError: a variable has a value that this service does not know.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    has_endpoint = any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    match _words("OTEL_TRACES_EXPORTER", "otlp" if has_endpoint else "none"):
        case ["none"]:
            return None
        case ["console"]:
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

            return ConsoleSpanExporter()
        case ["otlp"]:
            return _otlp_exporter()
        case _:
            raise InvalidSettingsError("OTEL_TRACES_EXPORTER: must be otlp, console or none")


def _otlp_exporter() -> "SpanExporter":
    general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOL
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general
    if protocol != _PROTOCOL:
        raise InvalidSettingsError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: must be {_PROTOCOL};"
            " collectors take that on port 4318"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _words(variable: str, default: str) -> list[str]:
    return [word.strip().lower() for word in (os.environ.get(variable) or default).split(",")]
