"""Spans of SQL statements, without the values in them."""

import re
import time
from functools import lru_cache
from typing import NamedTuple

import asyncpg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from ods.observability.tracing import provider

_VALUES = re.compile(
    r"""
    --[^\n]* | /\*.*?\*/                                # comments
    | (?P<tag>\$[A-Za-z_]*\$).*?(?P=tag)                # text between dollars
    | [eE]'(?:[^'\\]|''|\\.)*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
    | (?:[uU]&)?"(?:[^"]|"")*"                          # names: of databases and roles, which people choose
    | (?<![\w$.])\d[\d_.]*(?:[eE][+-]?\d+)?
    """,
    re.VERBOSE | re.DOTALL,
)
_KEPT = re.compile(r"SELECT|INSERT|UPDATE|DELETE|WITH|VALUES")
"""The statements whose names are those of tables and columns; others name databases and roles."""
_KEYWORDS = re.compile(r"[A-Z]+(?: [A-Z]+){0,2}")
_CHOSEN_NAME = re.compile(r"[A-Za-z_]\w*")
_MOST_CHARACTERS = 2000


class Statement(NamedTuple):
    """What a span tells of a statement: its first keywords, and its text without values."""

    operation: str
    text: str


@lru_cache(maxsize=1024)
def described(query: str) -> Statement:
    """The statement without its values, and without names that people choose."""
    text = " ".join(_VALUES.sub("?", query).split())
    keywords = _KEYWORDS.match(text)
    if keywords is None or "'" in text or '"' in text:
        return Statement("SQL", "?")  # it is not understood: a value may be left in it
    first = keywords[0].partition(" ")[0]
    if _KEPT.fullmatch(first) and ";" not in text.rstrip(";"):
        return Statement(first, text[:_MOST_CHARACTERS])
    # Names that PostgreSQL has quoted where they need it are left without quotes if they are in lower case.
    text = _CHOSEN_NAME.sub(lambda word: word[0] if word[0].isupper() else "?", text)
    return Statement(keywords[0], text[:_MOST_CHARACTERS])


def record(query: str, seconds: float, error: BaseException | None = None) -> None:
    """Make the span of a statement that has ended just now, in the trace of this task if it is in one.

    Args:
        query: the statement.
        seconds: how long it took.
        error: what it has failed with.
    """
    if not trace.get_current_span().is_recording():
        return
    statement, ended = described(query), time.time_ns()
    span = provider.tracer().start_span(
        statement.operation,
        kind=SpanKind.CLIENT,
        start_time=ended - round(seconds * 1e9),
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": statement.operation,
            "db.query.text": statement.text,
        },
    )
    if error is not None:
        state = getattr(error, "sqlstate", None)
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", state or type(error).__qualname__)
        if state:
            span.set_attribute("db.response.status_code", state)
    span.end(ended)


def observe(session: asyncpg.Connection) -> None:
    """Have the statements of `session` make spans, but those that SQLAlchemy prepares."""
    if provider.is_on():
        session.add_query_logger(_record_logged)


def _record_logged(logged: asyncpg.connection.LoggedQuery) -> None:
    # asyncpg calls this in the context of the task that has run the statement.
    record(logged.query, logged.elapsed, logged.exception)
