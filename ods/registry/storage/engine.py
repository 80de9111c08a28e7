"""The registry's connection pool."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, ExceptionContext, Select, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from ods.observability.tracing import provider, statements
from ods.registry.storage.connecting import (
    PROBES_OF_THE_CLIENT,
    connect,
    ends_sessions,
    question,
    require_usable,
)
from ods.settings.secret_files import DsnSource, current

POOL_SIZE = 10
"""Connections to a registry that one process opens at most, beside those for refreshes."""

_CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection: that a registry cannot be reached is reported soon."""
_STATEMENT_TIMEOUT = 10
"""Seconds to wait for an answer: a registry that does not answer counts as one that cannot be reached."""

_LONGEST_PAUSE = "60s"
"""How long a process may do something else within a transaction: one that hangs gives its locks back."""

_ANSWER_TIMEOUT = 2
"""Seconds to wait for the answer of a connection that was not used for a while: its server may be off."""
_TRUSTED_SECONDS = 1
"""How long after it was asked a connection is given out without being asked again, also if it was used since.

One that is used all the time, but only to read, would not tell that its server has become a standby.
"""
_ASKED_AT = "asked at"
_BEGAN_AT = "began at"

_ROWS_AT_ONCE = 100
"""Rows that are made of what PostgreSQL has sent before other tasks run: about a millisecond's work."""

_Row = TypeVar("_Row")


def create_registry_engine(
    dsn: DsnSource, pool_size: int = POOL_SIZE, statement_timeout: float | None = _STATEMENT_TIMEOUT
) -> AsyncEngine:
    """A pool of connections to a registry.

    Args:
        dsn: the registry's address.
        pool_size: the most connections that are open at once.
        statement_timeout: seconds to wait for the answer to a statement; None for no limit.

    A connection that died, or that can no longer write, is noticed within a second, and replaced. All are
    replaced when a write is refused because the server is a standby now, or the server ends a connection.
    A process that hangs in a transaction has it rolled back after a minute, and can commit nothing then.
    """

    async def connected() -> asyncpg.Connection:
        # Set with the statement that checks the session: no transaction has to.
        settings = {"idle_in_transaction_session_timeout": _LONGEST_PAUSE, **PROBES_OF_THE_CLIENT}
        return await connect(
            current(dsn), timeout=_CONNECT_TIMEOUT, settings=settings, command_timeout=statement_timeout
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        # asyncpg reads the address itself: SQLAlchemy would not understand parameters such as sslmode.
        async_creator=connected,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
    )
    # Not `pool_pre_ping`, which asks each time, with BEGIN and ROLLBACK around its question.
    event.listen(engine.sync_engine, "checkout", _require_answer_to(question(current(dsn))))
    event.listen(engine.sync_engine, "handle_error", _leave_server)
    if provider.is_on():
        event.listen(engine.sync_engine, "before_cursor_execute", _note_beginning)
        event.listen(engine.sync_engine, "after_cursor_execute", _record_statement)
        event.listen(engine.sync_engine, "handle_error", _record_failure)
    return engine


async def fetch_all(session: AsyncSession, query: Select[_Row]) -> list[_Row]:
    """The first column of every row of `query`; other tasks run while the rows of a long result are made."""
    # `AsyncSession` would make all of them at once; what comes from PostgreSQL is here when this returns.
    result = await session.run_sync(lambda synchronous: synchronous.scalars(query))
    parts = result.yield_per(_ROWS_AT_ONCE).partitions()
    rows: list[_Row] = []
    # What belongs to these rows is read with them.
    while (some := await session.run_sync(lambda _: next(parts, None))) is not None:
        rows += some
        await asyncio.sleep(0)
    return rows


def _leave_server(context: ExceptionContext) -> None:
    """Have the pool replace its connections if the fault of this one means that its server cannot be used."""
    if ends_sessions(getattr(context.original_exception, "sqlstate", None)):
        context.is_disconnect = True


def _note_beginning(
    connection: Connection, _cursor: object, _statement: str, _parameters: object, *_: object
) -> None:
    connection.info[_BEGAN_AT] = time.monotonic()


def _record_statement(
    connection: Connection,
    _cursor: object,
    statement: str,
    _parameters: object,
    _context: object,
    executemany: bool,  # noqa: FBT001 - SQLAlchemy's
) -> None:
    """Trace a statement that asyncpg has prepared; the others it reports itself (`statements.observe`)."""
    if not executemany:
        statements.record(statement, time.monotonic() - connection.info[_BEGAN_AT])


def _record_failure(context: ExceptionContext) -> None:
    """Trace a statement that has failed."""
    if context.connection is not None and context.statement is not None:
        seconds = time.monotonic() - context.connection.info.get(_BEGAN_AT, time.monotonic())
        statements.record(context.statement, seconds, context.original_exception)


def _require_answer_to(question: str) -> Callable[..., None]:
    def require_answer(
        connection: Any,  # noqa: ANN401 - SQLAlchemy's adapter of asyncpg's
        entry: ConnectionPoolEntry,
        *_: object,
    ) -> None:
        """Have the pool replace its connections if this one is closed, or cannot be used any more."""
        session: asyncpg.Connection = connection.driver_connection
        if session.is_closed():
            raise InvalidatePoolError
        now = time.monotonic()
        if now - entry.info.get(_ASKED_AT, -math.inf) < _TRUSTED_SECONDS:
            return
        try:
            await_only(require_usable(session, question, _ANSWER_TIMEOUT))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            raise InvalidatePoolError from None
        entry.info[_ASKED_AT] = now

    return require_answer
