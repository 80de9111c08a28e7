"""An ODS database to dump, empty databases to restore into, and PostgreSQL's own programs."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from ods.embedded import seeding
from ods.programs.postgres import client_program

_MEGABYTE = 1024 * 1024
_TABLES = 40
_ROW_BYTES = 165
"""What a row of a table of filling takes in the dump."""
_ODS = Path(seeding.__file__).parent / "templates" / "minimal.sql"
# Columns, keys and indexes as the tables of an ODS have them.
_FILL = """
CREATE TABLE filling_{0} AS
SELECT row AS studentusi, date '2026-08-01' + row % 200 AS begindate, 255901000 + row % 50 AS schoolid,
       concat(encode(sha512(format('%s {0}', row)::bytea), 'hex'),
              encode(sha512(format('{0} %s', row)::bytea), 'hex')) AS words,
       gen_random_uuid() AS id, localtimestamp AS createdate, row::bigint AS changeversion
FROM generate_series(1, {1}) AS row;
ALTER TABLE filling_{0} ADD PRIMARY KEY (studentusi, begindate, schoolid);
ALTER TABLE filling_{0} ADD FOREIGN KEY (studentusi) REFERENCES filling_students;
CREATE UNIQUE INDEX ON filling_{0} (id);
CREATE INDEX ON filling_{0} (schoolid);
CREATE INDEX ON filling_{0} (changeversion)
"""
_STUDENTS = """
CREATE TABLE filling_students AS SELECT row AS studentusi FROM generate_series(1, {0}) AS row;
ALTER TABLE filling_students ADD PRIMARY KEY (studentusi)
"""


def call(program: str, *arguments: str) -> None:
    """Run a program of PostgreSQL."""
    subprocess.run([client_program(program), *arguments], check=True)  # noqa: S603 - PostgreSQL's own


async def make_source(dsn: str, database: str, megabytes: int) -> None:
    """Make an ODS database whose dump has this size."""
    await make_empty(dsn, database)
    async with session(at(dsn, database)) as source:
        await source.execute(_ODS.read_text())
        await source.execute("RESET search_path; SET synchronous_commit = off")
        rows = megabytes * _MEGABYTE // _TABLES // _ROW_BYTES
        await source.execute(_STUDENTS.format(rows))
        for number in range(_TABLES):
            await source.execute(_FILL.format(number, rows))


async def make_empty(dsn: str, database: str) -> None:
    """Make an empty database, and have everything written that was done before."""
    async with session(dsn) as server:
        await server.execute(f'DROP DATABASE IF EXISTS "{database}"')
        await server.execute(f'CREATE DATABASE "{database}" TEMPLATE template0')
        await server.execute("CHECKPOINT")


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session on a database."""
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        await opened.close()


def at(dsn: str, database: str) -> str:
    """The address of a database on the server of `dsn`."""
    return f"{dsn.rpartition('/')[0]}/{database}"
