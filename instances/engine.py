"""The registry's connection pool."""

from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection: a registry that is away shall be reported, not waited for."""


def engine_url(dsn: str) -> URL:
    """`dsn`, a plain PostgreSQL URL, as SQLAlchemy wants it for asyncpg."""
    return make_url(dsn).set(drivername="postgresql+asyncpg")


def create_registry_engine(dsn: str, pool_size: int = 10) -> AsyncEngine:
    """A pool for the registry `dsn`; a connection that died is noticed and replaced when it is taken."""
    return create_async_engine(
        engine_url(dsn),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"timeout": _CONNECT_TIMEOUT},
    )
