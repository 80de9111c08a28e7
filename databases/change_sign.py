"""What tells a database from one that was changed since: counters, the state of its sequences, names, rights.

A sign is read before a backup is made of the database. If the same sign is read later, while no session
works in the database, then what a dump would hold is what that backup holds. All doubts are changes:
statistics that were lost or reset, another timeline, another database, sessions that may not have reported
yet what they have written. What each part is for, and what was measured, tells decision 43.
"""

from collections.abc import Sequence
from hashlib import sha256

import asyncpg

from databases.errors import translate_postgres_errors
from databases.inner_rights import read_rights
from databases.statements import fetch_rows, fetch_value

_QUIET_SECONDS = 60
"""How long a session must have been idle. PostgreSQL makes it report what it has written after ten seconds; a
session that goes on working reports after a minute at the latest."""
_BATCH = 100
"""Sequences that are read in one statement: it locks all of them."""

# The counters count what was written to tables, also to those of the catalog, and never go back but with
# `stats_reset`. After a crash all are lost: the time of the cluster's own statistics is another one then.
# A promoted standby has counters of its own, and another timeline. `track_counts` may be off for this session
# or, as the catalog tells, for others.
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
# Not counted at all, and no transaction: the values themselves.
_SEQUENCES = """
SELECT format('%I.%I', nspname, relname) AS name
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'S' AND relpersistence <> 't' ORDER BY pg_class.oid
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
# A dump has subscriptions only if a superuser makes it; no other role may read all of them.
_SUBSCRIPTIONS = """
SELECT array_agg(ROW(oid, xmin)::text ORDER BY oid) FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_IS_SUPERUSER = "SELECT current_setting('is_superuser') = 'on'"
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
    """The sign of the session's database; None if there is none, because PostgreSQL does not count changes.

    Raises:
        DatabaseFaultError: the server is away, or a sequence may not be read.
    """
    counters = await fetch_value(session, _COUNTERS)
    names = [row["name"] for row in await fetch_rows(session, _SEQUENCES)]
    # In transactions of their own, each of which locks the sequences of one batch.
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    values = [await _values_of(session, batch) for batch in batches]
    # Counted, but for the names of roles, which are the server's; the manifest of a backup has them.
    rights = await read_rights(session)
    named = [tuple(row) for row in await fetch_rows(session, _NAMES)]
    is_superuser = await fetch_value(session, _IS_SUPERUSER)
    subscriptions = await fetch_value(session, _SUBSCRIPTIONS) if is_superuser else None
    digest = sha256(repr((values, rights, named, subscriptions)).encode()).hexdigest()
    return None if counters is None else f"{counters} {digest}"


async def is_quiet(session: asyncpg.Connection) -> bool:
    """Whether all that was committed in the session's database is in the sign that is read after this.

    Raises:
        DatabaseFaultError: the server is away.
    """
    return not await fetch_value(session, _BUSY, _QUIET_SECONDS)


async def _values_of(session: asyncpg.Connection, sequences: Sequence[str]) -> list[str]:
    values = (f"(SELECT ROW(last_value, is_called)::text FROM {name})" for name in sequences)  # noqa: S608 - by PostgreSQL
    with translate_postgres_errors({}):
        found: list[str] = await session.fetchval(f"SELECT ARRAY[{', '.join(values)}]")
    return found
