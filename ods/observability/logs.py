"""Logging of what failed and where, never of an exception's text: it can hold secrets.

Each line carries what is known of the request or the activity that it belongs to: see `describe_lines`.
"""

import json
import logging
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from types import FrameType, TracebackType

FIELDS = (
    *("tenant", "instance_id", "ods_instance_id", "job_id", "workflow_id", "run_id", "attempt"),
    *("client", "request_id", "trace_id"),
)
"""What a line may carry beside its time, level, logger and message, in this order."""

OWN_LOGGERS = ("activities", "api", "ods", "worker", "workflows")
"""The loggers that write lines of level DEBUG. Those of libraries do not: they hold headers and payloads."""

_AUDIT_LOGGER = "ods.audit"
_ACCESS_LOGGER = "uvicorn.access"
_QUERY = re.compile(r"\?\S+")
_PLAIN = re.compile(r"[\w.:/@+=-]+")

_logger = logging.getLogger("worker")

_fields: ContextVar[Callable[[], Mapping[str, object]]] = ContextVar("fields of log lines", default=dict)


def describe_lines(fields: Callable[[], Mapping[str, object]]) -> None:
    """Have the lines of this task, and of those that it starts, carry these fields.

    Args:
        fields: asked when a line is written, for some of `FIELDS`; what is None is left out.
    """
    _fields.set(fields)


def fault_name(error: BaseException) -> str:
    """Kind and place of `error`, for example `OSError at server.py:42 in connected`."""
    places = _places(error)
    return f"{type(error).__name__} at {places[-1]}" if places else type(error).__name__


def _places(error: BaseException) -> list[str]:
    """Where `error` has passed, the outermost place first; no line of code, which may hold a secret."""
    return [place_name(frame) for frame in traceback.extract_tb(error.__traceback__)]


def place_name(frame: traceback.FrameSummary) -> str:
    """File, line and function, for example `server.py:42 in connected`."""
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} in {frame.name}"


class RedactingFormatter(logging.Formatter):
    """Formats a record as text, with its time in UTC, and the kind and place of its exception."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        record.exc_text = None
        line = " | ".join(super().format(record).splitlines())
        fields = " ".join(f"{name}={_text(value)}" for name, value in _known_fields(record).items())
        return f"{line} [{fields}]" if fields else line

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - named by the standard library
        """The line without its exception."""
        record.message = _message(record)
        return super().formatMessage(record)

    def formatException(  # noqa: N802 - named by the standard library
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Kind and place of the exception."""
        return fault_name(ei[1]) if ei[1] is not None else ""

    def formatStack(self, stack_info: str) -> str:  # noqa: ARG002, N802 - named by the standard library
        """Nothing: stacks are not logged."""
        return ""


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON, with the kind of its exception and the places that it has passed."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **_known_fields(record),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            entry |= {"exception": fault_name(error), "stack": _places(error)}
        return json.dumps(entry, default=str)


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name == "asyncio":
        # Below its first line, asyncio describes tasks with the texts of their exceptions.
        return message.partition("\n")[0]
    if record.name == _ACCESS_LOGGER:
        # A query can hold a secret, as that of a link to sign in does, also below a mistyped path.
        return _QUERY.sub("", message)
    return message


def _known_fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields of the line: those of its task; what a workflow logs, Temporal has described.

    A line of the audit trail has those of its entry too.
    """
    workflow: Mapping[str, object] = getattr(record, "temporal_workflow", {})
    described = {name: workflow.get(name) for name in ("workflow_id", "run_id")} | dict(_fields.get()())
    entry: Mapping[str, object] = getattr(record, "audit", {})
    known = {name: described.get(name) for name in FIELDS} | dict(entry)
    return {name: value for name, value in known.items() if value is not None}


def _text(value: object) -> str:
    """A field's value in a line of text: one with blanks is quoted."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def configure_logging(level: int = logging.INFO, *, as_json: bool = False) -> None:
    """Send every logger of this process to standard error, redacted.

    Args:
        level: the lowest level that is written; DEBUG holds for the service's own loggers only.
        as_json: whether a line is JSON, or else text.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(handlers=[handler], force=True)
    _set_level(level)
    # A record that cannot be formatted is dropped: Python would print its arguments and a stack instead.
    logging.raiseExceptions = False


def switch_debug_on_hangup(level: int) -> None:
    """Have SIGHUP switch lines of level DEBUG on, and the next SIGHUP switch back to `level`.

    A process that was started to outlive its terminal (`nohup`) ignores SIGHUP, and goes on doing so.
    """
    current = level

    def switch(_number: int, _frame: FrameType | None) -> None:
        nonlocal current
        current = logging.DEBUG if current != logging.DEBUG else max(level, logging.INFO)
        _set_level(current)
        name = logging.getLevelName(current)
        # Not in the context of the task that the signal has interrupted, which it does not belong to.
        Context().run(_logger.log, max(current, logging.INFO), "Lines are logged from level %s on.", name)

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, switch)


def _set_level(level: int) -> None:
    logging.getLogger().setLevel(max(level, logging.INFO))
    logging.getLogger(_AUDIT_LOGGER).setLevel(logging.INFO)  # whatever the level of the others
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level if level < logging.INFO else logging.NOTSET)
