"""Counting what is in a database, and comparing a copy with it."""

from collections.abc import Iterator, Mapping, Sequence

import asyncpg

from backups.errors import translate_database_faults
from backups.manifest import Figures
from backups.snapshots import Database, Snapshot, Table, snapshot
from databases.errors import translate_postgres_errors
from databases.statements import fetch_rows

# Only of these is it certain that a later value is a greater one.
_SEQUENCES = """
SELECT schemaname || '.' || sequencename AS name, last_value
FROM pg_sequences WHERE increment_by > 0 AND NOT cycle ORDER BY 1
"""
_BATCH = 50
"""Tables that are counted in one statement: it locks all their indexes as well."""


async def verify(database: Database, expected: Figures) -> list[str]:
    """Compare a database with figures: of its backup, or of another database.

    Returns:
        Each difference, as a sentence; none if the database is as expected.

    Raises:
        BackupFaultError: the server is away, …
    """
    return list(_differences(expected, await read_figures(database)))


async def read_figures(database: Database) -> Figures:
    """Count what is in a database, at one moment.

    Raises:
        BackupFaultError: the server is away, …
    """
    with translate_database_faults():
        async with snapshot(database) as moment:
            sequences = await read_sequences(moment)
            return Figures(await count_rows(moment), sequences)


async def read_sequences(moment: Snapshot) -> Mapping[str, int | None]:
    """The last value of each sequence that ascends, now: sequences are in no snapshot.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    async with moment.session() as session:
        return {row["name"]: row["last_value"] for row in await fetch_rows(session, _SEQUENCES)}


async def count_rows(moment: Snapshot) -> Mapping[str, int]:
    """The number of rows of each table, at that moment.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    counts: dict[str, int] = {}
    for start in range(0, len(moment.tables), _BATCH):
        async with moment.session() as session:
            counts |= await _counts_of(session, moment.tables[start : start + _BATCH])
    return counts


async def _counts_of(session: asyncpg.Connection, tables: Sequence[Table]) -> Mapping[str, int]:
    queries = (f"(SELECT count(*) FROM {table.quoted})" for table in tables)  # noqa: S608 - by PostgreSQL
    with translate_postgres_errors({}):
        savepoint = session.transaction()
        await savepoint.start()
        counts = await session.fetchval(f"SELECT ARRAY[{', '.join(queries)}]")
        await savepoint.rollback()  # this unlocks the indexes: a server has room for so many locks
    return dict(zip((table.name for table in tables), counts, strict=True))


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

    It may be ahead: sequences go on between the figures and the dump.
    """
    return expected is not None and (found is None or found < expected)
