"""Template databases of given sizes, of contents that cannot be compressed."""

from dataclasses import dataclass

import asyncpg

_UNFINISHED = "bench_unfinished"
_MEGABYTE = 1024 * 1024
_LARGE_MEGABYTES = 100
# Digests cannot be compressed, and cost a fraction of random numbers.
_INSERT_ROWS = """
INSERT INTO filling
SELECT row, (SELECT string_agg(sha512(format('%s %s', row, part)::bytea), '')
             FROM generate_series(1, 8) AS part)
FROM generate_series(1, $1::int) AS row
"""
_ROW_BYTES = 585
"""What a row of the table `filling` takes on disk: fourteen of them fill a page of 8192 bytes."""


@dataclass(frozen=True)
class TemplateSpec:
    """A template database to build: its size, and how many tables it has."""

    megabytes: int
    tables: int = 1

    @property
    def database(self) -> str:
        """Its name on the server."""
        return f"bench_{self.megabytes}_mb_{self.tables}"

    @property
    def is_large(self) -> bool:
        """Whether its clones are many megabytes in few files: then they are dropped when they were timed."""
        return self.megabytes >= _LARGE_MEGABYTES

    def __str__(self) -> str:
        tables = f", {self.tables} tables" if self.tables > 1 else ""
        return f"{self.megabytes} MB{tables}"


async def ensure(dsn: str, spec: TemplateSpec) -> None:
    """Build the template unless it is there: closed, so that it can always be cloned."""
    server = await asyncpg.connect(dsn)
    try:
        if await server.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", spec.database):
            return
        await server.execute(f"DROP DATABASE IF EXISTS {_UNFINISHED} WITH (FORCE)")
        await server.execute(f"CREATE DATABASE {_UNFINISHED}")
        await _create_tables(dsn, spec)
        await server.execute(f"ALTER DATABASE {_UNFINISHED} IS_TEMPLATE true ALLOW_CONNECTIONS false")
        await server.execute(f"ALTER DATABASE {_UNFINISHED} RENAME TO {spec.database}")
    finally:
        await server.close()


async def give_tables(dsn: str, clone: str) -> None:
    """Make the owner of a clone that of its tables too, which belong to the superuser: to dump is to read."""
    server = await asyncpg.connect(dsn, database=clone)
    try:
        owner = await server.fetchval(
            "SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database()"
        )
        for table in await server.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            await server.execute(f"ALTER TABLE {table['tablename']} OWNER TO {owner}")
    finally:
        await server.close()


async def _create_tables(dsn: str, spec: TemplateSpec) -> None:
    template = await asyncpg.connect(dsn, database=_UNFINISHED)
    try:
        await template.execute("SET synchronous_commit = off")
        await template.execute("CREATE TABLE filling (id bigint NOT NULL, noise bytea NOT NULL)")
        for number in range(1, spec.tables):
            await template.execute(f"CREATE TABLE table_{number} (id int PRIMARY KEY, words text)")
        missing = spec.megabytes * _MEGABYTE - await template.fetchval(
            "SELECT pg_database_size(current_database())"
        )
        await template.execute("ALTER TABLE filling ALTER noise SET STORAGE PLAIN")
        await template.execute(_INSERT_ROWS, max(1, missing // _ROW_BYTES))
        # Otherwise autovacuum would connect to the template, and delay the first clones.
        await template.execute("VACUUM (FREEZE, ANALYZE)")
    finally:
        await template.close()
