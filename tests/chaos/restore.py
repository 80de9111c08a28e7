"""Putting the registry back to an earlier state, as a restore in place does: every row and every sequence.

The database remains the same one, and so does the installation's identity in it, which never changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Self, TypeAlias

import asyncpg

from tests.chaos.evidence import History, Rows, connected, read_rows

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_Name: TypeAlias = tuple[str, str]
"""Schema and name."""

_TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema' ORDER BY 1, 2
"""
_SEQUENCES = "SELECT schemaname, sequencename FROM pg_sequences ORDER BY 1, 2"
_SETTINGS = """
SET session_replication_role = replica;  -- no trigger, no check of a foreign key
SET deadlock_timeout = '50ms';  -- the restore gives way, and is repeated
SET lock_timeout = '5s';
"""
# A restore ends every session, so that nothing is committed that began before it.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = 'ods_service'
"""


@dataclass(frozen=True)
class Snapshot:
    """Everything that the registry held at one moment.

    Attributes:
        tables: the rows of each table, in the binary form of COPY.
        sequences: the last value of each sequence, and whether it has been given out.
        rows: the instances and jobs among them.
    """

    tables: Mapping[_Name, bytes]
    sequences: Mapping[_Name, tuple[int, bool]]
    rows: Rows

    @classmethod
    async def take(cls, dsn: str) -> Self:
        """The registry at `dsn`, a superuser's address, as it is now.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: PostgreSQL is away.
        """
        async with connected(dsn) as registry, registry.transaction(isolation="repeatable_read"):
            return cls(
                {name: await _copied(registry, name) for name in await _names(registry, _TABLES)},
                {name: await _position(registry, name) for name in await _names(registry, _SEQUENCES)},
                await read_rows(registry),
            )

    async def put_back(self, dsn: str, history: History) -> None:
        """Replace everything in the registry by this, in one transaction; `history` is told what is lost.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: PostgreSQL is away, or another session has
                a lock; nothing was replaced then, or the answer to the commit was lost.
        """
        async with connected(dsn) as registry:
            await registry.execute(_SETTINGS)
            await registry.execute(_END_SESSIONS)
            async with registry.transaction():
                await registry.execute(f"LOCK TABLE {', '.join(map(_quoted, self.tables))}")
                await registry.execute(_END_SESSIONS)
                history.see_restore(await read_rows(registry), self.rows)
                for name, rows in self.tables.items():
                    await registry.execute(f"DELETE FROM {_quoted(name)}")  # noqa: S608 - quoted
                    await registry.copy_to_table(
                        name[1], schema_name=name[0], source=BytesIO(rows), format="binary"
                    )
                for name, position in self.sequences.items():
                    await registry.execute(
                        "SELECT setval($1::text::regclass, $2, $3)", _quoted(name), *position
                    )


async def _names(registry: _Connection, query: str) -> list[_Name]:
    return [(schema, name) for schema, name in await registry.fetch(query)]


async def _copied(registry: _Connection, name: _Name) -> bytes:
    rows = BytesIO()
    await registry.copy_from_table(name[1], schema_name=name[0], output=rows, format="binary")
    return rows.getvalue()


async def _position(registry: _Connection, name: _Name) -> tuple[int, bool]:
    row = await registry.fetchrow(f"SELECT last_value, is_called FROM {_quoted(name)}")  # noqa: S608 - quoted
    assert row is not None
    return row["last_value"], row["is_called"]


def _quoted(name: _Name) -> str:
    return ".".join(f'"{part}"' for part in name)
