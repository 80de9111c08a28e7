"""Remembers which instances a registry knows, and puts it back to that, beside the product."""

import asyncpg

_TABLES = ("databases", "dbinstances", "databaserevisions")
JOBS = "jobstatuses"


async def remember_rows(rows: asyncpg.Connection, *also: str) -> None:
    """Remember the rows of the instances, of their databases and revisions, and of further tables."""
    for table in (*_TABLES, *also):
        await rows.execute(f"CREATE TABLE earlier_{table} AS TABLE adminapi.{table}")


async def put_rows_back(rows: asyncpg.Connection, *also: str) -> None:
    """Put them back, and forget what was remembered."""
    async with rows.transaction():
        for table in (*_TABLES, *also):
            await rows.execute(f"DELETE FROM adminapi.{table}")  # noqa: S608 - a constant
            await rows.execute(f"INSERT INTO adminapi.{table} TABLE earlier_{table}")
            await rows.execute(f"DROP TABLE earlier_{table}")
