"""Logging of what failed and where, never of an exception's text or stack: either can hold secrets."""

import logging
import sys
import traceback
from types import TracebackType


def fault_name(error: BaseException) -> str:
    """Kind and place of `error`, for example `OSError at server.py:42 in connected`."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    last = frames[-1]
    return f"{type(error).__name__} at {last.filename.rsplit('/', 1)[-1]}:{last.lineno} in {last.name}"


class RedactingFormatter(logging.Formatter):
    """Formats a record with the kind and place of its exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        record.exc_text = None
        if record.name == "asyncio":
            # Below its first line, asyncio describes tasks with the texts of their exceptions.
            record.msg, record.args = record.getMessage().partition("\n")[0], None
        return " | ".join(super().format(record).splitlines())

    def formatException(  # noqa: N802 - named by the standard library
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Kind and place of the exception."""
        return fault_name(ei[1]) if ei[1] is not None else ""

    def formatStack(self, stack_info: str) -> str:  # noqa: ARG002, N802 - named by the standard library
        """Nothing: stacks are not logged."""
        return ""


def configure_logging(level: int = logging.INFO) -> None:
    """Send every logger of this process to standard error, redacted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A record that cannot be formatted is dropped: Python would print its arguments and a stack instead.
    logging.raiseExceptions = False
