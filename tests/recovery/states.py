"""Saves what a registry and a server have, and puts either of them back to that, beside the product."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import asyncpg

from ods.embedded.seeding import SERVICE_ROLE
from tests.end_to_end.steps import comment

_TABLES = (
    "dbo.odsinstances",
    "dbo.odsinstancecontexts",
    "dbo.odsinstancederivatives",
    "adminapi.dbinstances",
    "adminapi.databases",
    "adminapi.databaserevisions",
    "adminapi.jobstatuses",
    "adminapi.leftdatabasenames",
)
_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename) AS name, coalesce(last_value, start_value) AS last,
       last_value IS NOT NULL AS is_called
FROM pg_sequences WHERE schemaname || '.' || substring(sequencename FROM '[^_]+') = ANY($1)
"""
_DATABASES = """
SELECT oid, datname AS name, datallowconn AS is_open, shobj_description(oid, 'pg_database') AS comment
FROM pg_database WHERE NOT oid = ANY($1::oid[]) AND datname NOT SIMILAR TO 'ods_(staging|reset)_%'
"""
"""What is being made is dropped if its job fails."""
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"


@dataclass(frozen=True)
class RegistryState:
    """The rows of a registry, and the sequences that number them."""

    rows: Mapping[str, list[str]]
    sequences: list[asyncpg.Record]

    @staticmethod
    async def of(registry: asyncpg.Connection) -> "RegistryState":
        """What it has now."""
        rows = {}
        for table in _TABLES:
            found = await registry.fetch(f"SELECT its::text FROM {table} AS its")  # noqa: S608 - constants
            rows[table] = [row["its"] for row in found]
        return RegistryState(rows, await registry.fetch(_SEQUENCES, _TABLES))

    @property
    def without_rows(self) -> "RegistryState":
        """The same, with all rows lost; the sequences stay."""
        return RegistryState({table: [] for table in self.rows}, [])

    async def restore(self, registry: asyncpg.Connection) -> None:
        """Put it back to that."""
        async with registry.transaction():
            await registry.execute("SET LOCAL session_replication_role = replica")  # without triggers
            for table, its in self.rows.items():
                await registry.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
                inserted = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT (its::{table}).*"
                await registry.execute(f"{inserted} FROM unnest($1::text[]) AS its", its)
            for sequence in self.sequences:
                values = (sequence["name"], sequence["last"], sequence["is_called"])
                await registry.execute("SELECT setval($1::text::regclass, $2, $3)", *values)


@dataclass(frozen=True)
class ServerState:
    """The databases that a walk has made, by OID; not their data, which no step of a recovery changes.

    Attributes:
        others: OIDs of the databases that were there before.
    """

    others: Collection[int]
    databases: Mapping[int, asyncpg.Record]

    @staticmethod
    async def of(server: asyncpg.Connection, others: Collection[int]) -> "ServerState":
        """What it has now."""
        found = await server.fetch(_DATABASES, others)
        return ServerState(others, {row["oid"]: row for row in found})

    async def restore(self, server: asyncpg.Connection) -> None:
        """Put it back to that; one that was dropped since is empty, and has its OID again."""
        now = await ServerState.of(server, self.others)
        for oid, row in now.databases.items():
            if oid not in self.databases:
                await server.execute(f'DROP DATABASE "{row["name"]}" WITH (FORCE)')
        changed = {oid: row for oid, row in self.databases.items() if row != now.databases.get(oid)}
        for oid in changed:
            if oid in now.databases:
                name = now.databases[oid]["name"]
                await server.execute(_END_SESSIONS, name)
                await server.execute(f'ALTER DATABASE "{name}" RENAME TO "put back {oid}"')
            else:
                made = f'"put back {oid}" OID = {oid} TEMPLATE template0 OWNER {SERVICE_ROLE}'
                await server.execute(f"CREATE DATABASE {made}")
        for oid, row in changed.items():
            await server.execute(f'ALTER DATABASE "put back {oid}" RENAME TO "{row["name"]}"')
            await server.execute(f'ALTER DATABASE "{row["name"]}" ALLOW_CONNECTIONS {row["is_open"]}')
            await comment(server, row["name"], row["comment"])
