"""The PostgreSQL server that holds the ODS databases: connections to it, and the fence around one instance.

The fence is an advisory lock, held by the very session that runs the instance's DDL. Whoever holds it knows
that no other attempt, however old, can still create, publish or drop that instance's database: an attempt
that lost its session has lost the ability to do anything.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from databases.errors import DatabaseFaultError, faults_explained
from databases.ownership import Owner

_CONNECT_TIMEOUT = 10
_CLOSE_TIMEOUT = 10
_FENCE_PATIENCE = "2s"
"""How long the holder of a fence may go on before it is ended: its activity has been given up already."""
_FENCE_ROUNDS = 3

_KEEPALIVE_IDLE = 30
_KEEPALIVE_INTERVAL = 10
_KEEPALIVE_COUNT = 3
"""A server that lost its power is noticed after a minute; without keepalive, a clone would wait for ever."""

_TAKE_FENCE = "SELECT pg_advisory_lock(hashtextextended($1, 0))"
# A 64-bit key stands in pg_locks as two halves (documentation of pg_locks).
_END_HOLDER = """
SELECT pg_terminate_backend(pid, 5000)
FROM pg_locks, hashtextextended($1, 0) AS key
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = key
"""


class Server:
    """Gives out sessions on the server behind `dsn`, its maintenance database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @asynccontextmanager
    async def connected(self, database: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """A session on `database`, or on the maintenance database.

        Raises:
            DatabaseFaultError: the server cannot be reached or refuses.
        """
        with faults_explained({}):
            connection = await asyncpg.connect(
                self._dsn,
                database=database,
                timeout=_CONNECT_TIMEOUT,
                server_settings={
                    "application_name": "ods instance management",
                    # The server notices a killed client, ends its CREATE DATABASE and cleans up.
                    "client_connection_check_interval": "500ms",
                    # Routers forget connections on which nothing is said, as during a long clone.
                    "tcp_keepalives_idle": str(_KEEPALIVE_IDLE),
                    "tcp_keepalives_interval": str(_KEEPALIVE_INTERVAL),
                    "tcp_keepalives_count": str(_KEEPALIVE_COUNT),
                },
            )
            _keep_alive(connection)
        try:
            yield connection
        finally:
            await asyncio.shield(_close(connection))

    @asynccontextmanager
    async def fenced(self, owner: Owner) -> AsyncIterator[asyncpg.Connection]:
        """A session that alone may work on the databases of `owner`'s instance.

        Raises:
            DatabaseFaultError: the server cannot be reached, or an older attempt cannot be ended.
        """
        async with self.locked(owner.mark) as connection:
            yield connection

    @asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[asyncpg.Connection]:
        """A session that holds the advisory lock of `key`; who holds it for long is ended.

        Raises:
            DatabaseFaultError: the server cannot be reached, or an older attempt cannot be ended.
        """
        async with self.connected() as connection:
            with faults_explained({}):
                await _take_fence(connection, key)
            yield connection


def _keep_alive(connection: asyncpg.Connection) -> None:
    """Probe the server while it is silent."""
    transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg offers no other way
    line: socket.socket = transport.get_extra_info("socket")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if line.family in {socket.AF_INET, socket.AF_INET6} and sys.platform == "linux":
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)


async def _take_fence(connection: asyncpg.Connection, key: str) -> None:
    await connection.execute(f"SET lock_timeout = '{_FENCE_PATIENCE}'")
    for _ in range(_FENCE_ROUNDS):
        try:
            await connection.execute(_TAKE_FENCE, key)
        except asyncpg.LockNotAvailableError:
            await connection.execute(_END_HOLDER, key)
        else:
            await connection.execute("RESET lock_timeout")
            return
    raise DatabaseFaultError("An earlier attempt still works on this database.", retryable=True)


async def _close(connection: asyncpg.Connection) -> None:
    """Close in good order: a statement that was cancelled has ended on the server when this returns."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
