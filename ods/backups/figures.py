"""Counting what is in a database, and comparing a copy with it."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import asyncpg

from ods.backups.errors import translate_database_faults
from ods.backups.manifest import Figures
from ods.backups.snapshots import Database, Snapshot, Table, snapshot
from ods.databases.errors import translate_postgres_errors
from ods.databases.statements import fetch_rows

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
# The ancestors of a partition begin with itself and end with the table that is no partition.
_HASH_PARTITIONS = """
SELECT ns.nspname || '.' || leaf.relname AS name, topmost.name AS topmost
FROM pg_class AS leaf JOIN pg_namespace AS ns ON ns.oid = leaf.relnamespace
CROSS JOIN LATERAL (
    SELECT nspname || '.' || relname AS name
    FROM pg_partition_ancestors(leaf.oid) WITH ORDINALITY AS ancestor (id, distance)
    JOIN pg_partitioned_table ON partrelid = id AND partstrat = 'h'
    JOIN pg_class ON pg_class.oid = id
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    ORDER BY distance DESC LIMIT 1
) AS topmost
WHERE leaf.relkind = 'r' AND leaf.relispartition
"""


async def verify(database: Database, expected: Figures) -> list[str]:
    """Compare a database with figures: of its backup, or of another database.

    Partitions by hash are compared together: the hash of an enum is that of an OID, which a copy has anew, so
    that rows are in other partitions there.

    Returns each difference, as a sentence; none if the database is as expected.
    """
    with translate_database_faults():
        async with snapshot(database) as moment:
            found = await _figures_of(moment, expected.tables)
            async with moment.session() as session:
                rows = await fetch_rows(session, _HASH_PARTITIONS)
    return list(_differences(expected, found, {row["name"]: row["topmost"] for row in rows}))


async def read_figures(database: Database, also: Collection[str] = ()) -> Figures:
    """Count what is in a database, at one moment.

    `also` says which tables of extensions are counted as well.
    """
    with translate_database_faults():
        async with snapshot(database) as moment:
            return await _figures_of(moment, also)


async def _figures_of(moment: Snapshot, also: Collection[str]) -> Figures:
    sequences = await read_sequences(moment)
    of_extensions = [table for table in moment.extension_tables if table.name in also]
    return Figures(await count_rows(moment, [*moment.tables, *of_extensions]), sequences)


async def read_sequences(moment: Snapshot) -> Mapping[str, int | None]:
    """The last value of each sequence that ascends, now: sequences are in no snapshot."""
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


def _differences(expected: Figures, found: Figures, together: Mapping[str, str]) -> Iterator[str]:
    """The differences, where tables whose rows are counted together have the same name in `together`."""
    for name in sorted(expected.tables.keys() - found.tables.keys()):
        yield f"The table {name} is missing."
    for name in sorted(found.tables.keys() - expected.tables.keys()):
        yield f"The table {name} was not there."
    both = expected.tables.keys() & found.tables.keys()
    rows, found_rows = (_sums(one.tables, both, together) for one in (expected, found))
    for name, count in sorted(rows.items()):
        if found_rows[name] != count:
            yield f"The table {name} has {found_rows[name]} rows instead of {count}."
    for name, value in sorted(expected.sequences.items()):
        if name not in found.sequences:
            yield f"The sequence {name} is missing."
        elif _is_behind(found.sequences[name], value):
            yield f"The sequence {name} is at {found.sequences[name]} instead of {value}."


def _sums(tables: Mapping[str, int], names: Iterable[str], together: Mapping[str, str]) -> Counter[str]:
    """The rows of these tables, of those together that have the same name in `together`."""
    sums: Counter[str] = Counter()
    for name in names:
        sums[together.get(name, name)] += tables[name]
    return sums


def _is_behind(found: int | None, expected: int | None) -> bool:
    """Whether a copy of a sequence would give values again that were given.

    It may be ahead: sequences go on until pg_dump reads them.
    """
    return expected is not None and (found is None or found < expected)
