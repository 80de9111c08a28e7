"""Locks of other sessions that DDL on a database waits for: waited for briefly, then reported.

The timeout itself is a setting of every session (`databases/server.py`). Nothing is ended here: the operator
is told which session it is, and how to end it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from databases.errors import LOCK_NOT_AVAILABLE, DatabaseFaultError, translate_postgres_errors

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
async def lock_holders_named(session: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Name the session that holds the lock, if the body gives up waiting for one on `database`.

    Raises:
        DatabaseFaultError: an outage: another session holds a lock.
    """
    try:
        yield
    except asyncpg.LockNotAvailableError:
        with translate_postgres_errors({}):
            holder = await session.fetchrow(_HOLDERS, database)
        raise DatabaseFaultError(
            _described(holder, database), outage=True, sqlstate=LOCK_NOT_AVAILABLE
        ) from None


def _described(holder: asyncpg.Record | None, database: str) -> str:
    if holder is None:
        return f"Another session held a lock on the database '{database}' for several seconds."
    since = f"{holder['xact_start']:%Y-%m-%d %H:%M:%S %Z}" if holder["xact_start"] else "an unknown time"
    return (
        f"Another session holds a lock on the database '{database}': process {holder['pid']} of the user"
        f" {holder['usename']}, application '{holder['application_name']}', {holder['state'] or 'busy'},"
        f" its transaction began at {since}. It is waited for; to end it:"
        f" SELECT pg_terminate_backend({holder['pid']})"
    )
