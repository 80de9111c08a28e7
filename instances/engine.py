"""The registry's connection pool."""

from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

_CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection: a registry that is away shall be reported, not waited for."""
_STATEMENT_TIMEOUT = 10
"""Seconds to wait for an answer: a registry that is frozen is away as well."""


def create_registry_engine(
    dsn: str, pool_size: int = 10, statement_timeout: float | None = _STATEMENT_TIMEOUT
) -> AsyncEngine:
    """A pool for the registry `dsn`; a connection that died is noticed and replaced when it is taken."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        # asyncpg reads the address itself: SQLAlchemy would not understand parameters such as sslmode.
        async_creator=partial(
            asyncpg.connect, dsn, timeout=_CONNECT_TIMEOUT, command_timeout=statement_timeout
        ),
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
    )
    # Not `pool_pre_ping`, which puts BEGIN and ROLLBACK around its question.
    event.listen(engine.sync_engine, "checkout", _require_answer)
    return engine


def _require_answer(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapter of asyncpg's
    """Have the pool replace its connections if this one does not answer."""
    try:
        await_only(connection.driver_connection.execute("SELECT 1"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        raise InvalidatePoolError from None
