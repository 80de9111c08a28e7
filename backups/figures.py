"""Counting what is in a database, and comparing a copy with it."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import asyncpg

from backups.errors import translate_database_faults
from backups.manifest import Figures
from backups.snapshots import Database, Snapshot, Table, snapshot
from databases.errors import translate_postgres_errors
from databases.statements import fetch_rows

# Only of these is it certain that a later value is a greater one.
_SEQUENCES = """
SELECT schemaname || '.' || sequencename AS name, last_value
FROM pg_sequences
WHERE increment_by > 0 AND NOT cycle
  AND NOT EXISTS (  -- one that an extension has made is in no dump
      SELECT FROM pg_depend
      JOIN pg_class ON pg_class.oid = objid
      JOIN pg_namespace AS ns ON ns.oid = relnamespace
      WHERE classid = 'pg_class'::regclass AND deptype = 'e'
        AND nspname = schemaname AND relname = sequencename
  )
ORDER BY 1
"""


async def verify(database: Database, expected: Figures) -> list[str]:
    """Compare a database with figures: of its backup, or of another database.

    Returns:
        Each difference, as a sentence; none if the database is as expected.

    Raises:
        BackupFaultError: the server is away, …
    """
    return list(_differences(expected, await read_figures(database, expected.tables)))


async def read_figures(database: Database, also: Collection[str] = ()) -> Figures:
    """Count what is in a database, at one moment.

    Args:
        database: the database.
        also: which tables of extensions are counted as well.

    Raises:
        BackupFaultError: the server is away, …
    """
    with translate_database_faults():
        async with snapshot(database) as moment:
            sequences = await read_sequences(moment)
            of_extensions = [table for table in moment.extension_tables if table.name in also]
            return Figures(await count_rows(moment, [*moment.tables, *of_extensions]), sequences)


async def read_sequences(moment: Snapshot) -> Mapping[str, int | None]:
    """The last value of each sequence that ascends, now: sequences are in no snapshot.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    async with moment.session() as session:
        return {row["name"]: row["last_value"] for row in await fetch_rows(session, _SEQUENCES)}


def lower_values(
    first: Mapping[str, int | None], second: Mapping[str, int | None]
) -> Mapping[str, int | None]:
    """The lower of two values of each sequence that has both."""
    return {name: _lower(value, second[name]) for name, value in first.items() if name in second}


async def count_rows(moment: Snapshot, tables: Iterable[Table]) -> Mapping[str, int]:
    """The number of rows of each of these tables then, without those of tables that inherit from it.

    Not by a query: to plan one, PostgreSQL calls functions of indexes on the table, which its owner has
    made, with the rights of the session.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    counts: dict[str, int] = {}
    for table in tables:
        async with moment.session() as session:
            counts[table.name] = await _count_of(session, table)
    return counts


async def _count_of(session: asyncpg.Connection, table: Table) -> int:
    count = 0

    async def add(lines: bytes) -> None:  # within a value, it would be escaped
        nonlocal count
        count += lines.count(b"\n")

    columns = None if table.narrowest is None else [table.narrowest]
    with translate_postgres_errors({}):
        await session.copy_from_table(
            table.relation,
            schema_name=table.schema,
            columns=columns,
            format="text",
            encoding="SQL_ASCII",  # bytes as they are: texts of such a database may be in no encoding
            output=add,
        )
    return count


def _lower(first: int | None, second: int | None) -> int | None:
    """None is the lowest: it has given no value."""
    return None if first is None or second is None else min(first, second)


def _differences(expected: Figures, found: Figures) -> Iterator[str]:
    for name in sorted(expected.tables.keys() | found.tables.keys()):
        if name not in found.tables:
            yield f"The table {name} is missing."
        elif name not in expected.tables:
            yield f"The table {name} was not there."
        elif found.tables[name] != expected.tables[name]:
            yield f"The table {name} has {found.tables[name]} rows instead of {expected.tables[name]}."
    for name, value in sorted(expected.sequences.items()):
        if name not in found.sequences:
            yield f"The sequence {name} is missing."
        elif _is_behind(found.sequences[name], value):
            yield f"The sequence {name} is at {found.sequences[name]} instead of {value}."


def _is_behind(found: int | None, expected: int | None) -> bool:
    """Whether a copy of a sequence would give values again that were given.

    It may be ahead: sequences go on until pg_dump reads them.
    """
    return expected is not None and (found is None or found < expected)
