"""What keeps DDL on a database from being done: it is reported, with how to end it. Nothing is ended here.

It is a lock of another session, after `lock_timeout` (`ods/databases/server.py`), or a prepared transaction
or a subscription, which uses a database without a session that could be ended.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ods.databases.constants import LOCK_NOT_AVAILABLE, OBJECT_IN_USE
from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import fetch_row

# A lock on the database; otherwise an uncommitted change of the catalogue, such as ALTER DATABASE, which
# locks only the row.
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


_USERS = """
SELECT format('the prepared transaction %L', gid) AS what,
       format('COMMIT PREPARED %1$L, or ROLLBACK PREPARED %1$L', gid) AS remedy
FROM pg_prepared_xacts WHERE database = $1
UNION ALL
SELECT format('the subscription %I', subname), format(
    'ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE);'
    ' DROP SUBSCRIPTION %1$I; and its slot on the publisher', subname)
FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid WHERE datname = $1
LIMIT 1
"""


@asynccontextmanager
async def name_holder(session: asyncpg.Connection, database: str) -> AsyncIterator[None]:
    """Name what keeps the statements in the body from being done; the lock of another session is an outage.

    Args:
        session: may be used once the body has failed.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.sqlstate == OBJECT_IN_USE and (user := await fetch_row(session, _USERS, database)):
            raise DatabaseFaultError(
                f"The database '{database}' has {user['what']}, which only a session in it can end:"
                f" {user['remedy']}. If the database is closed, open it for that, and close it afterwards"
                f' (ALTER DATABASE "{database}" ALLOW_CONNECTIONS true; …; false). Then retry.',
                retryable=True,
                sqlstate=OBJECT_IN_USE,
            ) from None
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
