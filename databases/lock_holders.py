"""Locks of other sessions, for which DDL on a database waits until `lock_timeout`; then they are reported.

The timeout is a setting of every session (`databases/server.py`). No session is ended here: the
message names the session that holds the lock, and how to end it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from databases.constants import LOCK_NOT_AVAILABLE
from databases.errors import DatabaseFaultError
from databases.statements import fetch_row

# A lock on the database itself; or, where there is none, sessions with an uncommitted change of the
# catalogue: an ALTER DATABASE that has not been committed locks no more than the row.
_HOLDERS = """
SELECT pid, usename, application_name, state, xact_start,
       bool_or(locktype = 'object' AND mode <> 'RowExclusiveLock') AS locks_database
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE pid <> pg_backend_pid() AND granted
  AND NOT EXISTS (SELECT FROM pg_locks AS waiting WHERE waiting.pid = pg_locks.pid AND NOT waiting.granted)
  AND (
    locktype = 'object' AND classid = 'pg_database'::regclass
        AND objid = (SELECT oid FROM pg_database WHERE datname = $1)
    OR locktype = 'relation' AND relation = 'pg_database'::regclass AND mode = 'RowExclusiveLock'
)
GROUP BY pid, usename, application_name, state, xact_start
ORDER BY locks_database DESC, xact_start NULLS LAST
LIMIT 1
"""


@asynccontextmanager
async def name_lock_holder(session: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Name the session that holds the lock, if a statement in the body waits for one on `database` in vain.

    Args:
        session: a session that may be used while the body has failed.
        database: the database that the statements change.

    Raises:
        DatabaseFaultError: an outage: another session holds a lock.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        holder = await fetch_row(session, _HOLDERS, database)
        raise DatabaseFaultError(
            _description(holder, database), outage=True, sqlstate=LOCK_NOT_AVAILABLE
        ) from None


def _description(holder: asyncpg.Record | None, database: str) -> str:
    if holder is None:
        return f"Another session held a lock on the database '{database}' for several seconds."
    since = f"{holder['xact_start']:%Y-%m-%d %H:%M:%S %Z}" if holder["xact_start"] else "an unknown time"
    return (
        f"Another session holds a lock on the database '{database}': process {holder['pid']} of the user"
        f" {holder['usename']}, application '{holder['application_name']}', {holder['state'] or 'busy'},"
        f" its transaction began at {since}. It is waited for; to end it:"
        f" SELECT pg_terminate_backend({holder['pid']})"
    )
