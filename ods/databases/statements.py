"""The one way to run a statement on a session of the ODS server: every error becomes a `DatabaseFaultError`.

`reasons` says, by SQLSTATE, what it means for this step and what the operator can do about it; without one,
the general reason of the SQLSTATE is given (`ods/databases/errors.py`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from ods.databases.errors import translate_postgres_errors

NO_REASONS: Mapping[str, str] = {}


async def execute(
    session: asyncpg.Connection, statement: str, *names: str, reasons: Mapping[str, str] = NO_REASONS
) -> None:
    """Run DDL, which takes no parameters; PostgreSQL itself quotes the names (%I) and literals (%L).

    Several statements, with semicolons between them, go in one message, and are one transaction.
    """
    with translate_postgres_errors(reasons):
        quoted = await session.fetchval("SELECT pg_catalog.format($1, VARIADIC $2::text[])", statement, names)
        await session.execute(quoted)


async def fetch_rows(
    session: asyncpg.Connection, query: str, *arguments: object, reasons: Mapping[str, str] = NO_REASONS
) -> list[asyncpg.Record]:
    """The rows of a query with parameters."""
    with translate_postgres_errors(reasons):
        return await session.fetch(query, *arguments)


async def fetch_row(session: asyncpg.Connection, query: str, *arguments: object) -> asyncpg.Record | None:
    """The first row of a query with parameters; None if there is none."""
    with translate_postgres_errors(NO_REASONS):
        return await session.fetchrow(query, *arguments)


async def fetch_value(
    session: asyncpg.Connection, query: str, *arguments: object, reasons: Mapping[str, str] = NO_REASONS
) -> Any:  # noqa: ANN401 - of whatever type the query has
    """The first value of the first row of a query with parameters; None if there is no row."""
    with translate_postgres_errors(reasons):
        return await session.fetchval(query, *arguments)


async def server_clock(session: asyncpg.Connection) -> datetime:
    """The time by the server's clock."""
    at: datetime = await fetch_value(session, "SELECT clock_timestamp()")
    return at
