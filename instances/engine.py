"""The registry's connection pool."""

from functools import partial

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection: a registry that is away shall be reported, not waited for."""
_STATEMENT_TIMEOUT = 10
"""Seconds to wait for an answer: a registry that is frozen is away as well."""


def create_registry_engine(
    dsn: str, pool_size: int = 10, statement_timeout: float | None = _STATEMENT_TIMEOUT
) -> AsyncEngine:
    """A pool for the registry `dsn`; a connection that died is noticed and replaced when it is taken."""
    return create_async_engine(
        "postgresql+asyncpg://",
        # asyncpg reads the address itself: SQLAlchemy would not understand parameters such as sslmode.
        async_creator=partial(
            asyncpg.connect, dsn, timeout=_CONNECT_TIMEOUT, command_timeout=statement_timeout
        ),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
    )
