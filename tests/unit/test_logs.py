import io
import json
import logging
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ods.observability.logs import (
    OWN_LOGGERS,
    JsonFormatter,
    RedactingFormatter,
    configure_logging,
    describe_lines,
    fault_name,
    switch_debug_on_hangup,
)

SECRET = "postgresql://u:hidden@h/d"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.Logger("redacting")  # noqa: LOG001 - known to the test only
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield logger
    handler.close()


def fail() -> None:
    raise ValueError(SECRET)


def test_kind_and_place_are_told_when_an_exception_is_logged(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    try:
        fail()
    except ValueError:
        logger.exception("It failed.")
    assert stream.getvalue().startswith("ERROR It failed. | ValueError at test_logs.py:")
    assert stream.getvalue().endswith(" in fail\n")
    assert "hidden" not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_time_is_in_utc_when_a_line_is_text() -> None:
    record = logging.makeLogRecord({"msg": "Well.", "created": 0.5, "msecs": 500.0})
    written = RedactingFormatter("%(asctime)s %(message)s").format(record)
    assert written == "1970-01-01T00:00:00.500Z Well."


def test_no_cause_is_told_when_an_exception_has_one(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        try:
            fail()
        except ValueError as error:
            raise OSError(f"outer {SECRET}") from error
    except OSError:
        logger.exception("It failed.")
    assert "OSError" in stream.getvalue()
    assert "hidden" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_no_stack_is_told_when_one_is_asked_for(logger: logging.Logger, stream: io.StringIO) -> None:
    secret = SECRET
    logger.warning("Careful.", stack_info=True)
    assert secret
    assert stream.getvalue().startswith("WARNING Careful.")
    assert "Stack" not in stream.getvalue()
    assert "File" not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_text_cached_by_another_formatter_is_not_told_when_a_record_is_formatted(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    indiscreet = logging.StreamHandler(io.StringIO())
    indiscreet.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers.insert(0, indiscreet)
    try:
        fail()
    except ValueError:
        logger.exception("It failed.")
    assert "hidden" in indiscreet.stream.getvalue()
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo",
        "one\n\n\ntwo\n",
        "one\r\ntwo",
        "one\rtwo",
    ],
)
def test_record_is_one_line_when_its_message_has_several(
    logger: logging.Logger, stream: io.StringIO, text: str
) -> None:
    logger.warning("%s", text, stack_info=True)
    assert len(stream.getvalue().splitlines()) == 1
    assert "one" in stream.getvalue()
    assert "two" in stream.getvalue()


def test_record_is_formatted_when_there_is_no_exception(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.log(logging.ERROR, "No exception.", exc_info=(None, None, None))
    assert stream.getvalue().startswith("ERROR No exception.")
    assert stream.getvalue().count("\n") == 1


def test_kind_alone_is_told_when_an_exception_was_never_raised() -> None:
    assert fault_name(ValueError(SECRET)) == "ValueError"


def test_every_logger_redacts_when_logging_is_configured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stdout)])
    configure_logging()
    try:
        fail()
    except ValueError:
        logging.getLogger("some.library").exception("It failed.")
    out, err = capsys.readouterr()
    assert out == ""
    assert "some.library It failed. | ValueError" in err
    assert "hidden" not in err


def test_nothing_of_a_record_is_told_when_it_cannot_be_formatted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", True)
    configure_logging()
    message = "two places, one value: %s %s"
    logging.getLogger("careless").warning(message, SECRET)
    assert "hidden" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("query", ["", "?with=hidden", "?a=1&with=hidden?hidden", '?"hidden"'])
def test_requests_are_told_without_their_queries_when_they_are_logged(query: str) -> None:
    form = '%s - "%s %s HTTP/%s" %d'
    args = ("127.0.0.1:5", "GET", f"/console/sign-in/link{query}", "1.1", 303)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, form, args, None)
    written = RedactingFormatter("%(message)s").format(record)
    assert written == '127.0.0.1:5 - "GET /console/sign-in/link HTTP/1.1" 303'


@pytest.fixture
def json_logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.Logger("json")  # noqa: LOG001 - known to the test only
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    yield logger
    handler.close()


def in_a_task(fields: Mapping[str, object], log: Callable[[], None]) -> None:
    """Log in a context of its own, as a request and an activity have one."""

    def describe_and_log() -> None:
        describe_lines(lambda: fields)
        log()

    copy_context().run(describe_and_log)


def test_line_is_an_object_with_the_known_fields_when_the_format_is_json(
    json_logger: logging.Logger, stream: io.StringIO
) -> None:
    fields = {"trace_id": "abc", "tenant": "default", "job_id": None, "ods_instance_id": 42, "other": "no"}
    in_a_task(fields, lambda: json_logger.warning("one\ntwo \u2028 %s", "three"))
    entry = json.loads(stream.getvalue())
    assert stream.getvalue().isascii()
    assert stream.getvalue().count("\n") == 1
    time = datetime.fromisoformat(entry.pop("time"))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert list(entry.items()) == [
        ("level", "WARNING"),
        ("logger", "json"),
        ("message", "one\ntwo \u2028 three"),
        ("tenant", "default"),
        ("ods_instance_id", 42),
        ("trace_id", "abc"),
    ]


def test_places_that_an_exception_has_passed_are_told_and_nothing_else_of_it_when_the_format_is_json(
    json_logger: logging.Logger, stream: io.StringIO
) -> None:
    try:
        fail()
    except ValueError:
        json_logger.exception("It failed.", stack_info=True)
    entry = json.loads(stream.getvalue())
    assert entry["exception"].startswith("ValueError at test_logs.py:")
    outer, inner = entry["stack"]
    assert outer.endswith(
        " in test_places_that_an_exception_has_passed_are_told_and_nothing_else_of_it_when_the_format_is_json"
    )
    assert inner.endswith(" in fail")
    assert "hidden" not in stream.getvalue()


def test_line_ends_with_the_known_fields_when_the_format_is_text(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    fields = {"request_id": "a-1", "client": 'Jane "R"\n', "attempt": 0}
    in_a_task(fields, lambda: logger.warning("Said."))
    assert stream.getvalue() == 'WARNING Said. [attempt=0 client="Jane \\"R\\"\\n" request_id=a-1]\n'


def test_fields_are_those_of_the_moment_when_a_line_is_written(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    fields: dict[str, object] = {}

    def log() -> None:
        logger.warning("First.")
        fields["tenant"] = "default"
        logger.warning("Second.")

    in_a_task(fields, log)
    assert stream.getvalue() == "WARNING First.\nWARNING Second. [tenant=default]\n"


def test_workflow_is_told_when_a_workflow_logs(json_logger: logging.Logger, stream: io.StringIO) -> None:
    details = {"workflow_id": "42", "run_id": "r", "attempt": 1, "task_queue": "q"}
    json_logger.warning("Said.", extra={"temporal_workflow": details})
    entry = json.loads(stream.getvalue())
    assert (entry["workflow_id"], entry["run_id"]) == ("42", "r")
    assert "attempt" not in entry


@pytest.fixture
def _logging_as_before(hangup_heard: None) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def is_written(name: str, level: int) -> bool:
    return logging.getLogger(name).isEnabledFor(level)


@pytest.mark.usefixtures("_logging_as_before")
def test_libraries_write_no_lines_of_level_debug_when_the_service_does() -> None:
    configure_logging(logging.DEBUG)
    assert is_written("api.job_dispatcher", logging.DEBUG)
    assert is_written("worker", logging.DEBUG)
    assert not is_written("httpcore.connection", logging.DEBUG)
    assert not is_written("temporalio.worker", logging.DEBUG)
    configure_logging(logging.WARNING)
    assert not is_written("api.job_dispatcher", logging.INFO)
    assert not is_written("uvicorn.access", logging.INFO)


@pytest.mark.usefixtures("_logging_as_before")
def test_level_changes_and_changes_back_when_the_process_gets_sighup() -> None:
    configure_logging(logging.WARNING)
    switch_debug_on_hangup(logging.WARNING)
    signal.raise_signal(signal.SIGHUP)
    assert is_written("api", logging.DEBUG)
    signal.raise_signal(signal.SIGHUP)
    assert not is_written("api", logging.INFO)


@pytest.mark.usefixtures("_logging_as_before")
def test_sighup_stays_ignored_when_the_process_was_started_to_outlive_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure_logging()
    switch_debug_on_hangup(logging.INFO)
    signal.raise_signal(signal.SIGHUP)
    assert not is_written("api", logging.DEBUG)


def test_every_package_that_a_process_loads_is_among_the_own_loggers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    packages = {it.rstrip("*") for it in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(OWN_LOGGERS)
