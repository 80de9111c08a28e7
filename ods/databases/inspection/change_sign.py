"""The sign of a database, which differs once it was changed: counters, states of sequences, names, rights.

A sign is read before a backup is made. If the same sign is read later, while no session works in the
database, a dump would hold what that backup holds. Every doubt counts as a change: statistics that were lost
or reset, another timeline, another database, sessions that may not have reported yet what they have written.
Decision 43 explains each part.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import TypeVar

import asyncpg

from ods.databases.errors import translate_postgres_errors
from ods.databases.rights.inner import read_rights
from ods.databases.statements import execute, fetch_rows, fetch_value

_Name = TypeVar("_Name")

_QUIET_SECONDS = 60
"""How long a session must have been idle. An idle one reports what it has written after ten seconds; one that
goes on working after a minute at the latest."""
_LOCK_TIMEOUT = "3s"
"""How long a session that changes a sequence is waited for."""
_BATCH = 100
"""Sequences that are read in one statement: it locks all of them."""

# The counters count what was written to tables, those of the catalog included, and go back only with
# `stats_reset`. A crash loses all of them, and changes the time of the cluster's own statistics. A promoted
# standby has counters of its own, and another timeline. `track_counts` may be off for this session or, by the
# catalog, for others.
_COUNTERS = """
SELECT concat_ws(' ',
    (SELECT system_identifier FROM pg_control_system()),
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
    datid,
    coalesce(extract(epoch FROM (SELECT stats_reset FROM pg_stat_wal))::text, '-'),
    coalesce(extract(epoch FROM stats_reset)::text, '-'),
    tup_inserted, tup_updated, tup_deleted)
FROM pg_stat_database
WHERE datname = current_database() AND current_setting('track_counts') = 'on'
  AND NOT EXISTS (
      SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
      WHERE setdatabase IN (0, datid) AND starts_with(setting, 'track_counts=')
  )
"""
# Changes of sequences are not counted: their values are read. Not by their names: between two statements, or
# while one waits for a lock, the owner of a sequence or of its schema can give the name to a view, or to a
# table with an index, whose functions would run with the rights of the session. A sequence that belongs, with
# its schema, to the session's role or to a superuser keeps its name.
_SEQUENCES = """
WITH trusted AS (
    SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user
), owners AS (
    SELECT oid FROM trusted UNION ALL
    SELECT 'pg_database_owner'::regrole FROM pg_database
    WHERE datname = current_database() AND datdba IN (SELECT oid FROM trusted)
)
SELECT pg_class.oid::int8 AS oid, format('%I.%I', nspname, relname) AS name,
       relowner IN (SELECT oid FROM owners) AND nspowner IN (SELECT oid FROM owners) AS keeps_name
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'S' AND relpersistence <> 't' ORDER BY pg_class.oid
"""
_DATA_FUNCTION_SINCE = 18
"""Since this version, PostgreSQL has a function for all of a sequence's state."""
_DATA = """
SELECT array_agg((SELECT last_value || ' ' || is_called FROM pg_get_sequence_data(it::regclass)) ORDER BY it)
FROM unnest($1::oid[]) AS it
"""
# Null if the sequence has given no value yet.
_LAST_VALUES = """
SELECT array_agg(pg_sequence_last_value(it::regclass)::text ORDER BY it) FROM unnest($1::oid[]) AS it
"""
# In catalogs of the server, which no counter of the database shows. A dump names tablespaces, and the roles
# of policies and user mappings.
_NAMES = """
SELECT (SELECT array_agg(ROW(oid, rolname)::text ORDER BY oid) FROM pg_roles WHERE oid IN (
            SELECT refobjid FROM pg_shdepend
            WHERE refclassid = 'pg_authid'::regclass
              AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        )) AS roles,
       (SELECT array_agg(ROW(oid, spcname)::text ORDER BY oid) FROM pg_tablespace) AS tablespaces
"""
# The state of a session is null for a role that may not see it. What autovacuum writes is in no dump.
_BUSY = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type IS DISTINCT FROM 'autovacuum worker'
      AND (state = 'idle' AND state_change < clock_timestamp() - make_interval(secs => $1)) IS NOT TRUE
)
"""


async def read_sign(session: asyncpg.Connection) -> str | None:
    """The sign of the session's database; None if PostgreSQL counts no changes, or hides a sequence.

    A sequence that another session has locked is an outage.
    """
    counters = await fetch_value(session, _COUNTERS)
    await execute(session, "SET lock_timeout = %L", _LOCK_TIMEOUT)
    values = await _sequences(session)
    # Counted, but for the names of roles, which are the server's; the manifest of a backup has them.
    rights = await read_rights(session)
    named = [tuple(row) for row in await fetch_rows(session, _NAMES)]
    digest = sha256(repr((values, rights, named)).encode()).hexdigest()
    return None if counters is None or None in values else f"{counters} {digest}"


async def is_quiet(session: asyncpg.Connection) -> bool:
    """Whether a sign that is read after this has all that was committed in the session's database."""
    return not await fetch_value(session, _BUSY, _QUIET_SECONDS)


async def _sequences(session: asyncpg.Connection) -> list[str | None]:
    """The state of each sequence; None for one that PostgreSQL hides."""
    found = await fetch_rows(session, _SEQUENCES)
    oids = [row["oid"] for row in found]
    if session.get_server_version().major >= _DATA_FUNCTION_SINCE:
        return await _in_batches(oids, partial(fetch_value, session, _DATA))
    names = [row["name"] for row in found if row["keeps_name"]]
    others = [row["oid"] for row in found if not row["keeps_name"]]
    return [
        *await _in_batches(names, partial(_values_of, session)),
        *await _in_batches(others, partial(fetch_value, session, _LAST_VALUES)),
    ]


async def _in_batches(
    sequences: Sequence[_Name], read: Callable[[Sequence[_Name]], Awaitable[list[str | None]]]
) -> list[str | None]:
    """What `read` gives for all, each batch in a transaction: it locks the sequences of the batch."""
    batches = [sequences[start : start + _BATCH] for start in range(0, len(sequences), _BATCH)]
    return [value for batch in batches for value in await read(batch)]


async def _values_of(session: asyncpg.Connection, sequences: Sequence[str]) -> list[str | None]:
    values = (f"(SELECT ROW(last_value, is_called)::text FROM {name})" for name in sequences)  # noqa: S608 - by PostgreSQL
    with translate_postgres_errors({}):
        found: list[str | None] = await session.fetchval(f"SELECT ARRAY[{', '.join(values)}]")
    return found
