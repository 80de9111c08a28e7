"""Collecting the statistics of tables, by which PostgreSQL plans queries."""

import logging

import asyncpg

from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import execute, fetch_rows

_NO_LIMIT = "SET statement_timeout = 0"
# As ANALYZE without names takes them: partitions, and the partitioned table itself.
_TABLES = """
SELECT nspname AS schema, relname AS relation
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'm', 'p') AND NOT relisshared AND relpersistence <> 't'
ORDER BY pg_class.oid
"""

_logger = logging.getLogger(__name__)


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
