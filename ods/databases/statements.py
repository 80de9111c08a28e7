"""The one way to run a statement on a session of the ODS server: every error becomes a `DatabaseFaultError`.

`reasons` says, by SQLSTATE, what it means for this step and what the operator can do about it; without one,
the general reason of the SQLSTATE is given (`ods/databases/errors.py`). `analyze` collects the statistics by
which PostgreSQL plans queries.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from ods.databases.errors import DatabaseFaultError, translate_postgres_errors

NO_REASONS: Mapping[str, str] = {}

_NO_LIMIT = "SET statement_timeout = 0"
# As ANALYZE without names takes them: partitions, and the partitioned table itself.
_TABLES = """
SELECT nspname AS schema, relname AS relation
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'm', 'p') AND NOT relisshared AND relpersistence <> 't'
ORDER BY pg_class.oid
"""

_logger = logging.getLogger(__name__)


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


async def analyze(session: asyncpg.Connection) -> None:
    """Collect the statistics of all tables in the session's database, as far as that is possible.

    Expressions of indexes and extended statistics may fail for some rows, by a division by zero, or as they
    call a function without its schema. No data are missing without these statistics.
    """
    try:
        await execute(session, f"{_NO_LIMIT}; ANALYZE")  # in one transaction: none of it stays if it fails
    except DatabaseFaultError as fault:
        if fault.outage:
            raise
        await _analyze_each(session)


async def _analyze_each(session: asyncpg.Connection) -> None:
    await execute(session, _NO_LIMIT)
    for table in await fetch_rows(session, _TABLES):
        try:
            await execute(session, "ANALYZE %I.%I", table["schema"], table["relation"])
        except DatabaseFaultError as fault:
            if fault.outage:
                raise
            name = f"{table['schema']}.{table['relation']}"
            _logger.warning("Statistics of %s are missing: ANALYZE failed (%s).", name, fault.sqlstate)
