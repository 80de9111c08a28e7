"""Recognising a pooler in transaction mode, which runs the transactions of one client in several sessions.

The service holds advisory locks over many transactions and relies on the parameters of its sessions.
PgBouncer in transaction mode would lose both without an error: two workers could work on one database. So
such a pooler is refused. In session mode, a client keeps its session, which is all that is needed.

A session is the server's own if the process id in the server's first message is the one that
`pg_backend_pid()` returns. A pooler has to make up that id, which serves to cancel statements. Behind one, a
second client opens a transaction as soon as the first one's has ended. If each client keeps its session,
neither ever gets the other's. Else the second one gets the session that the first one has left or, if a third
client was faster, the first one gets another session while the second one holds its own. One client is not
enough: alone, it gets the same session each time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from ods.registry.storage.connecting import connect

_CONNECT_SECONDS = 5
_CLOSE_SECONDS = 1
_ROUNDS = 5
"""How often the two clients are compared: a third one may be faster once, but not each time."""

STATEMENT_MODE = "statement pooling"
"""Part of the error that PgBouncer sends to a client that begins a transaction in this mode."""
_SESSION = "SELECT pg_backend_pid() || ' of ' || pg_postmaster_start_time()"


async def keeps_sessions(dsn: str) -> bool:
    """Whether a client of `dsn` has one session from its first transaction to its last."""
    async with client(dsn) as first:
        return await keeps_session(first, dsn)


async def keeps_session(first: asyncpg.Connection, dsn: str) -> bool:
    """The same, asked through a client of `dsn` that has not been used yet."""
    async with first.transaction():
        if await first.fetchval("SELECT pg_backend_pid()") == first.get_server_pid():
            return True
    async with client(dsn) as second:
        for _ in range(_ROUNDS):
            if await _meet(first, second):
                return False
    return True


async def _meet(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    """Whether `second` got the session of `first`, or `first` another one than before."""
    async with first.transaction():
        session = await first.fetchval(_SESSION)
    async with second.transaction():
        if await second.fetchval(_SESSION) == session:
            return True
        async with first.transaction():
            return bool(await first.fetchval(_SESSION) != session)


@asynccontextmanager
async def client(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A client of `dsn`, for such questions."""
    # A pooler in transaction mode would lose prepared statements as well.
    connection = await connect(dsn, timeout=_CONNECT_SECONDS, statement_cache_size=0)
    try:
        yield connection
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=_CLOSE_SECONDS)
