"""How databases of instances are used.

The figures that the server keeps are read by one query for many databases. The tables of a database are read
in a session on it, which a rename or a delete of the instance ends as it ends the sessions of users.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from math import inf
from time import monotonic

import asyncpg

from ods.databases.constants import APPLICATION_NAME, INSUFFICIENT_PRIVILEGE, UNDEFINED_DATABASE
from ods.databases.errors import DatabaseFaultError, NotOursError, translate_postgres_errors
from ods.databases.lookup import find, require_usable
from ods.databases.ownership import Owner
from ods.databases.rights.service_role import require_statistics, rights_fault
from ods.databases.server import Server
from ods.databases.statements import fetch_rows
from ods.registry.rights.needs import quoted

_FRESH_SECONDS = 3
"""How long figures, and the failure to read any, serve further requests."""
_READ_SECONDS = 5
"""How long reading the figures may take: the list of instances waits for them."""
_TABLES_SECONDS = 5
"""How long reading the tables of a database may take: their sizes wait for locks of other sessions."""
_VISIT_SECONDS = 10
"""The same with the connecting, and the waiting for other visits to end."""
_VISITS = 2
"""Sessions in databases of instances at once, so that clients do not use up the connections."""
_LARGEST = 10

_NOT_OPEN = "55000"
_TIMED_OUT = "57014"
_TABLES_LOCKED = (
    f"The sizes of the tables could not be read within {_TABLES_SECONDS} seconds: another session holds locks"
    " on them, or the server is busy."
)

# For a database that is dropped meanwhile, `pg_database_size` would fail; its privileges are null.
_SIZE = """
       CASE WHEN has_database_privilege(db.oid, 'CONNECT') IS NOT NULL THEN pg_database_size(db.oid) END
"""
_SIZES = f"""
SELECT db.datname, shobj_description(db.oid, 'pg_database') AS comment, {_SIZE} AS size_bytes
FROM unnest($1::text[]) AS wanted JOIN pg_database AS db ON db.datname::text = wanted
"""  # noqa: S608 - constants
# Autovacuum has no user, and parallel workers have a leader.
_FIGURES = f"""
WITH sessions AS (
    SELECT datid, application_name, state, count(*) AS count, min(xact_start) AS oldest_start,
           max(CASE WHEN state = 'active' THEN clock_timestamp()
                    ELSE greatest(state_change, backend_start) END) AS last_activity
    FROM pg_stat_activity
    WHERE usesysid IS NOT NULL AND leader_pid IS NULL AND application_name <> $2
    GROUP BY datid, application_name, state
), activity AS (
    SELECT datid, max(last_activity) AS last_activity_at,
           extract(epoch FROM clock_timestamp() - min(oldest_start))::float8 AS oldest_transaction_seconds,
           json_agg(json_build_object('application_name', application_name, 'state', state, 'count', count)
                    ORDER BY application_name, state) AS sessions
    FROM sessions GROUP BY datid
)
SELECT db.datname, shobj_description(db.oid, 'pg_database') AS comment,
       {_SIZE} AS size_bytes,
       coalesce(activity.sessions, '[]') AS sessions, last_activity_at, oldest_transaction_seconds,
       coalesce(xact_commit + xact_rollback, 0) AS transactions, stats_reset AS statistics_reset_at,
       blks_hit::float8 / nullif(blks_hit + blks_read, 0) AS cache_hit_ratio
FROM unnest($1::text[]) AS wanted
JOIN pg_database AS db ON db.datname::text = wanted
LEFT JOIN pg_stat_database AS statistics ON statistics.datid = db.oid
LEFT JOIN activity ON activity.datid = db.oid
"""  # noqa: S608 - constants
# `reltuples` is -1 until a table was counted. The rows of a partitioned table are those of its partitions.
_TABLES = """
WITH tables AS (
    SELECT nspname || '.' || relname AS name, pg_total_relation_size(pg_class.oid) AS bytes,
           CASE WHEN relkind = 'p' THEN NULL WHEN reltuples >= 0 THEN reltuples::bigint
                WHEN pg_relation_size(pg_class.oid) = 0 THEN 0 END AS rows_estimated
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
)
SELECT count(*) AS tables, sum(rows_estimated)::bigint AS rows_estimated,
       (SELECT json_agg(largest) FROM (
           SELECT * FROM tables ORDER BY bytes DESC NULLS LAST, name LIMIT $1
       ) AS largest) AS largest_tables
FROM tables
"""


@dataclass(frozen=True)
class SessionCount:
    """How many sessions of an application are in a state, as `pg_stat_activity` calls it."""

    application_name: str
    state: str | None
    count: int


@dataclass(frozen=True)
class DatabaseFigures:
    """What the server says of a database; the sessions of this service are left out.

    Attributes:
        last_activity_at: when an open session last began, or began or ended a statement; None without one.
        transactions: how many since its statistics were reset, those of this service included.
        cache_hit_ratio: which share of the blocks that were read since then was in memory, from 0 to 1; None
            if none was read.
        oldest_transaction_seconds: the age of the oldest open transaction.
    """

    comment: str | None
    size_bytes: int
    sessions: list[SessionCount]
    last_activity_at: datetime | None
    transactions: int
    statistics_reset_at: datetime | None
    cache_hit_ratio: float | None
    oldest_transaction_seconds: float | None


@dataclass(frozen=True)
class DatabaseSize:
    """The size of a database, and its comment."""

    comment: str | None
    bytes: int


@dataclass(frozen=True)
class LargeTable:
    """A table, named with its schema; `bytes` with its indexes, rows as PostgreSQL last counted them."""

    name: str
    bytes: int | None
    rows_estimated: int | None


@dataclass(frozen=True)
class TableFigures:
    """The tables of a database, without PostgreSQL's own: how many, their rows, the largest ones first."""

    tables: int
    rows_estimated: int | None
    """Of the tables that VACUUM or ANALYZE has counted; None if there is none."""
    largest_tables: list[LargeTable]


@dataclass(frozen=True)
class _Known:
    """What the server has said of one name: figures, or None if there is no such database."""

    read_at: float
    figures: DatabaseFigures | None

    def serves(self, began: float, since: float) -> bool:
        """Whether it may answer a request that began then, for figures that were read since a time.

        That there is no database is never known for later requests: it may be made at any moment.
        """
        if self.read_at >= began:
            return True
        return self.figures is not None and self.read_at >= since and _is_fresh(self.read_at)


async def read_sizes(session: asyncpg.Connection, names: Collection[str]) -> Mapping[str, DatabaseSize]:
    """The sizes of those databases with these `names` that exist: one query, which may take minutes."""
    await require_statistics(session)
    rows = await fetch_rows(session, _SIZES, list(names))
    told = (row for row in rows if row["size_bytes"] is not None)
    return {row["datname"]: DatabaseSize(row["comment"], row["size_bytes"]) for row in told}


class UsageReader:
    """Reads how databases of one server are used: one query at a time, for all requests that wait."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[str, _Known] = {}
        self._failure: tuple[float, DatabaseFaultError] | None = None
        self._wanted: set[str] = set()
        self._reading = asyncio.Lock()
        self._visits = asyncio.Semaphore(_VISITS)

    async def figures(self, names: Collection[str], since: float = -inf) -> Mapping[str, DatabaseFigures]:
        """The figures of those databases with these `names` that exist, at most three seconds old.

        Figures that were read before `since`, a time of `monotonic`, are read anew.
        """
        began = monotonic()
        self._wanted.update(names)
        async with self._reading:
            if self._failure is not None and _is_fresh(self._failure[0]):
                raise self._failure[1].with_traceback(None)  # it may have been raised for other requests
            wanted, self._wanted = self._wanted.union(names), set()
            sinces = dict.fromkeys(names, since)
            known = self._known.items()
            kept = {name: one for name, one in known if one.serves(began, sinces.get(name, -inf))}
            self._known = kept | await self._read(wanted - kept.keys())
            found = {name: self._known[name].figures for name in names}
        return {name: figures for name, figures in found.items() if figures is not None}

    async def tables(self, owner: Owner, database: str) -> TableFigures | None:
        """The tables of the owner's database of that name; None if there is no such database."""
        async with _answering_within(_VISIT_SECONDS), self._visits:
            async with self._server.session() as session:
                found = (await find(session, owner, database)).get(database)
            if found is None:
                return None
            if not owner.owns(found.comment):
                raise NotOursError(database, registered_for=owner.ods_instance_id)
            require_usable(found)
            return await self._visit(database)

    async def _read(self, names: Collection[str]) -> dict[str, _Known]:
        if not names:
            return {}
        try:
            async with _answering_within(_READ_SECONDS), self._server.session() as session:
                await require_statistics(session)
                rows = await fetch_rows(session, _FIGURES, list(names), APPLICATION_NAME)
        except DatabaseFaultError as fault:
            self._failure = monotonic(), fault
            raise
        read_at = monotonic()
        told = {row["datname"]: _figures(row) for row in rows if row["size_bytes"] is not None}
        return {name: _Known(read_at, told.get(name)) for name in names}

    async def _visit(self, database: str) -> TableFigures:
        try:
            async with self._server.connected(database) as session:
                with translate_postgres_errors({_TIMED_OUT: _TABLES_LOCKED}):
                    await session.execute(
                        f"BEGIN READ ONLY; SET LOCAL statement_timeout = '{_TABLES_SECONDS}s'"
                    )
                    (row,) = await session.fetch(_TABLES, _LARGEST)
        except DatabaseFaultError as fault:
            raise _refused_visit(fault, database) from None
        largest = [LargeTable(**table) for table in json.loads(row["largest_tables"] or "[]")]
        return TableFigures(row["tables"], row["rows_estimated"], largest)


def _is_fresh(at: float) -> bool:
    return monotonic() - at < _FRESH_SECONDS


@asynccontextmanager
async def _answering_within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        reason = "The PostgreSQL server of the ODS databases did not answer in time."
        raise DatabaseFaultError(reason, outage=True) from None


def _refused_visit(fault: DatabaseFaultError, database: str) -> DatabaseFaultError:
    if fault.sqlstate == INSUFFICIENT_PRIVILEGE:
        grant = f"GRANT CONNECT ON DATABASE {quoted(database)} TO the role of ODS_MASTER_DSN"
        return rights_fault([grant])
    if fault.sqlstate in {UNDEFINED_DATABASE, _NOT_OPEN}:
        reason = f"The database '{database}' has just been closed, renamed or removed."
        return DatabaseFaultError(reason, retryable=True, sqlstate=fault.sqlstate)
    return fault


def _figures(row: asyncpg.Record) -> DatabaseFigures:
    told = {name: value for name, value in row.items() if name != "datname"}
    sessions = [SessionCount(**some) for some in json.loads(row["sessions"])]
    return DatabaseFigures(**told | {"sessions": sessions})
