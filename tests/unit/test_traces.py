"""What of statements and spans is sent, and when there are traces at all."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState

from ods.observability.tracing import provider
from ods.observability.tracing.jobs import job_span
from ods.observability.tracing.redaction import ATTRIBUTES, RedactingExporter
from ods.observability.tracing.statements import described, record
from ods.settings.settings import InvalidSettingsError
from tests.collector import attributes, tracing


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("SELECT  a\nFROM b WHERE c = $1", "SELECT a FROM b WHERE c = $1"),
        ("SELECT $1::VARCHAR, 'it''s', 42, 1.5e-3, x1, int8", "SELECT $1::VARCHAR, ?, ?, ?, x1, int8"),
        (r"SELECT 'a\', 'hidden'", "SELECT ?, ?"),
        (r"SELECT E'a\', hidden'", "SELECT ?"),
        ("SELECT $tag$ it's hidden $tag$, $$ hidden $$", "SELECT ?, ?"),
        ("SELECT 1 -- hidden\nFROM a /* hidden */", "SELECT ? ? FROM a ?"),
        ('SELECT "Hidden ""name"""', "SELECT ?"),
        ('INSERT INTO "Hidden" (a) VALUES ($1)', "INSERT INTO ? (a) VALUES ($1)"),
        ("SELECT 1; DROP DATABASE hidden", "SELECT ?; DROP DATABASE ?"),
        (
            'CREATE DATABASE hidden TEMPLATE "Hidden" STRATEGY wal_log',
            "CREATE DATABASE ? TEMPLATE ? STRATEGY ?",
        ),
        ('COMMENT ON DATABASE hidden IS \'{"a": "hidden"}\'', "COMMENT ON DATABASE ? IS ?"),
        ("SET lock_timeout = '2s'", "SET ? = ?"),
        ("BEGIN;", "BEGIN;"),
        ("drop database hidden", "?"),
        ("SELECT 'hidden", "?"),
        ('SELECT "hidden', "?"),
        ("", "?"),
    ],
)
def test_statement_has_no_value_and_no_name_that_people_choose(query: str, text: str) -> None:
    assert described(query).text == text


@pytest.mark.parametrize(
    ("query", "operation"),
    [
        ("SELECT 1", "SELECT"),
        ("ALTER DATABASE a RENAME TO b", "ALTER DATABASE"),
        ("COMMENT ON DATABASE a IS NULL", "COMMENT ON DATABASE"),
        ("with a as (select 1) select * from a", "SQL"),
    ],
)
def test_span_of_a_statement_has_the_name_of_its_operation(query: str, operation: str) -> None:
    assert described(query).operation == operation


def test_long_statement_is_cut() -> None:
    assert len(described(f"SELECT {'a, ' * 10_000}b").text) == 2000


def test_only_what_is_known_to_hold_no_secret_is_sent() -> None:
    sent = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(RedactingExporter(sent)))
    state = TraceState([("a", "hidden")])
    linked = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    known = dict.fromkeys(ATTRIBUTES, "kept")

    def fail() -> None:
        with provider.get_tracer("a").start_as_current_span(
            "A hidden name!",
            attributes=known | {"b": "hidden"},
            links=[Link(linked, {"error.type": "hidden"})],
        ) as span:
            span.add_event("hidden", {"error.type": "hidden"})
            raise ValueError("hidden")

    with pytest.raises(ValueError, match="hidden"):
        fail()
    (found,) = sent.get_finished_spans()
    assert found.name == "span"
    assert found.attributes == known
    assert (found.status.status_code.name, found.status.description) == ("ERROR", None)
    assert [(event.name, event.attributes) for event in found.events] == [
        ("exception", {"exception.type": "ValueError"})
    ]
    assert "hidden" not in found.to_json()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("POST /v2/dbInstances/{id}", "POST /v2/dbInstances/{id}"),
        ("RunWorkflow:CreateInstance", "RunWorkflow:CreateInstance"),
        ("HandleSignal:hand_over", "HandleSignal:hand_over"),
        ("HandleSignal:hidden", "HandleSignal"),
        ("SignalWorkflow:retry hidden", "SignalWorkflow"),
        ("StartWorkflowUpdate:hidden", "StartWorkflowUpdate"),
        ("HandleQuery:__hidden\n", "HandleQuery"),
        ("hidden!", "span"),
        ("a" * 101, "span"),
    ],
)
def test_name_of_a_span_is_sent_if_it_is_ours(name: str, sent: str) -> None:
    with tracing() as traces:
        provider.tracer().start_span(name).end()
    assert [span.name for span in traces.spans] == [sent]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"},
    ],
)
def test_there_are_no_traces_when_no_variable_says_where_to(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not provider.start("a")
    assert not provider.is_on()
    with provider.tracer().start_as_current_span("a") as span:
        assert not span.is_recording()
        record("SELECT 1", 0.1)
        with job_span("a", "b"):
            assert provider.trace_id() is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_start_is_refused_naming_the_variable_when_its_value_is_not_known(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettingsError, match=variable):
        provider.start("a")
    assert not provider.is_on()


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({}, "ods-tests"),
        ({"OTEL_SERVICE_NAME": "other"}, "other"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=third"}, "third"),
    ],
)
def test_service_has_its_own_name_unless_a_variable_gives_another(
    variables: dict[str, str], service: str
) -> None:
    with tracing(**variables) as traces, provider.tracer().start_as_current_span("a"):
        pass
    assert traces.services == {service}


@pytest.mark.parametrize(("ratio", "spans"), [("0", 0), ("1", 1)])
def test_as_many_traces_are_kept_as_the_sampler_says(ratio: str, spans: int) -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    with tracing(**sampler) as traces, provider.tracer().start_as_current_span("a"):
        pass
    assert len(traces.spans) == spans


@pytest.mark.parametrize(
    ("propagators", "is_taken"), [("", True), ("tracecontext", True), ("none", False), ("b3", False)]
)
def test_context_of_the_caller_is_taken_as_the_variable_says(
    propagators: str,
    is_taken: bool,  # noqa: FBT001 - a case
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", propagators)
    context = provider.context_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with provider.tracer().start_as_current_span("a", context):
        assert (provider.trace_id() == "0af7651916cd43dd8448eb211c80319c") is is_taken


def test_job_has_the_same_trace_wherever_it_is_met_and_links_lead_there_and_back() -> None:
    with tracing() as traces:
        span = provider.tracer().start_as_current_span
        for name in ("request", "sweep"):
            with span(name), job_span("job", "installation", "mark", "job"), span("below"):
                pass
        with job_span("job", "installation", "mark", "other job"):
            pass
    first, second, other = traces.named("job")
    assert first.trace_id == second.trace_id
    assert other.trace_id != first.trace_id
    assert other.links == []
    for job, name in ((first, "request"), (second, "sweep")):
        (origin,) = traces.named(name)
        assert origin.trace_id != job.trace_id
        assert job.parent_span_id == b""
        assert [link.span_id for link in job.links] == [origin.span_id]
        assert [link.span_id for link in origin.links] == [job.span_id]
    assert [span.parent_span_id for span in traces.named("below")] == [first.span_id, second.span_id]


def test_failed_statement_has_its_sqlstate() -> None:
    error = type("AnError", (Exception,), {"sqlstate": "23505"})("hidden")
    with tracing() as traces, provider.tracer().start_as_current_span("a"):
        record("SELECT 1", 0.25, error)
    (span,) = traces.named("SELECT")
    assert attributes(span)["db.response.status_code"] == "23505"
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000


def printed(program: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=50).stdout  # noqa: S603 - this program


def test_process_ends_when_the_collector_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    start_and_stop = "provider.start('a'); provider.tracer().start_span('b').end(); provider.stop()"
    assert (
        printed(f"from ods.observability.tracing import provider; {start_and_stop}; print('ended')")
        == "ended\n"
    )


def test_process_without_traces_does_not_load_the_sdk() -> None:
    loaded = "print(*(name for name in sys.modules if name.startswith('opentelemetry.sdk')))"
    assert printed(f"import sys, api.app, worker; {loaded}") == "\n"
