"""The PostgreSQL server that holds the ODS databases: connections to it, and the fence around one instance.

The fence is an advisory lock, held by the very session that runs the instance's DDL. Whoever holds it knows
that no other attempt, however old, can still create, publish or drop that instance's database: an attempt
that lost its session has lost the ability to do anything.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import asyncpg

from databases.errors import LOST, DatabaseFaultError, translate_postgres_errors
from databases.ownership import Owner
from registry.storage.connecting import (
    connect,
    ends_sessions,
    question,
    read_only,
    require_usable,
    setting_statements,
)
from secret_files import DsnSource, current

_Answer = TypeVar("_Answer")

_CONNECT_TIMEOUT = 10
_CLOSE_TIMEOUT = 10
_MOST_SESSIONS = 100
"""More than anybody asks for: how much is done at once, others bound."""
_IDLE_SECONDS = 60
"""How long a session is kept for the next who needs one."""
_FENCE_PATIENCE = "2s"
"""How long the holder of a fence may go on before it is ended: its activity has been given up already."""
_FENCE_ROUNDS = 3

_KEEPALIVE_IDLE = 30
_KEEPALIVE_INTERVAL = 10
_KEEPALIVE_COUNT = 3
"""A server that lost its power is noticed after a minute; without keepalive, a clone would wait for ever."""

_APPLICATION = {"application_name": "ods instance management"}
# Set once a session is there: in the first message, poolers take the name only.
_SESSION_SETTINGS = {
    # The server notices a killed client, ends its CREATE DATABASE and cleans up.
    "client_connection_check_interval": "500ms",
    # No lock of another session holds up the jobs behind this one: it is told, and tried again later.
    "lock_timeout": "3s",
    # Routers forget connections on which nothing is said, as during a long clone.
    "tcp_keepalives_idle": str(_KEEPALIVE_IDLE),
    "tcp_keepalives_interval": str(_KEEPALIVE_INTERVAL),
    "tcp_keepalives_count": str(_KEEPALIVE_COUNT),
}
_TRY_FENCE = """
SELECT CASE WHEN current_setting('transaction_read_only') = 'off'
    THEN pg_try_advisory_lock(hashtextextended($1, 0)) END
"""
"""NULL on a session that cannot write."""
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
    """Gives out sessions on the server behind `dsn`, its maintenance database.

    Those on the maintenance database are kept and used again: to open one takes as long as all that is asked
    on it beside the DDL.
    """

    def __init__(self, dsn: DsnSource) -> None:
        self._dsn = dsn
        self._question = question(current(dsn))
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def close(self) -> None:
        """Close the sessions that are kept."""
        if self._pool is not None:
            with suppress(TimeoutError):  # what is still used then is closed all the same
                await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
            self._pool = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A session on the maintenance database that is as good as new.

        When it is given back, PostgreSQL takes its locks and settings away. One on which anything went wrong,
        a cancellation included, is closed.

        Raises:
            DatabaseFaultError: the server cannot be reached or refuses.
        """
        async with self._kept() as session:
            await _first_answer(session, require_usable(session, self._question, _CONNECT_TIMEOUT))
            yield session

    async def require_session(self) -> None:
        """Make sure that the server gives out sessions on which databases can be created and dropped.

        Raises:
            DatabaseFaultError: it cannot be reached, refuses, or is a standby.
        """
        async with self.session():
            pass

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        """A session of its own on `database`.

        Raises:
            DatabaseFaultError: the server cannot be reached or refuses.
        """
        with translate_postgres_errors({}):
            connection = await connect(
                current(self._dsn), database=database, timeout=_CONNECT_TIMEOUT, server_settings=_APPLICATION
            )
            await _keep_alive(connection)
        try:
            yield connection
        finally:
            await asyncio.shield(_close(connection))

    @asynccontextmanager
    async def fenced(
        self, owner: Owner, before_waiting: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        """A session that alone may work on the databases of `owner`'s instance.

        Args:
            owner: the instance.
            before_waiting: called if somebody else works on them, who will be ended if that takes long; what
                it raises leaves that one alone.

        Raises:
            DatabaseFaultError: the server cannot be reached, or an older attempt cannot be ended.
        """
        async with self.locked(owner.mark, before_waiting) as session:
            yield session

    @asynccontextmanager
    async def locked(
        self, key: str, before_waiting: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        """A session that holds the advisory lock of `key`; who holds it for long is ended.

        Raises:
            DatabaseFaultError: the server cannot be reached, or an older attempt cannot be ended.
        """
        async with self._kept() as session:
            if not await _first_answer(session, _try_fence(session, key)):
                if before_waiting is not None:
                    await before_waiting()
                with translate_postgres_errors({}):
                    await _take_fence(session, key)
            yield session

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[asyncpg.Connection]:
        with translate_postgres_errors({}):
            pool = await self._opened_pool()
            acquired = await pool.acquire(timeout=_CONNECT_TIMEOUT)
        session = cast("asyncpg.Connection", acquired)  # it has all of its methods
        try:
            yield session
        except BaseException as fault:
            await asyncio.shield(_close(session))
            if ends_sessions(getattr(fault, "sqlstate", None)):
                await pool.expire_connections()  # the others are replaced when they are taken
            raise
        finally:
            with suppress(*LOST, asyncpg.PostgresError):  # then the pool has closed it
                await pool.release(acquired)

    async def _opened_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                connect=self._connected,
                min_size=0,
                max_size=_MOST_SESSIONS,
                max_inactive_connection_lifetime=_IDLE_SECONDS,
                init=_keep_alive,
                reset=_make_new,
            )
        return await self._pool

    async def _connected(self, *_: object, **arguments: Any) -> asyncpg.Connection:  # noqa: ANN401 - the pool's
        return await connect(
            current(self._dsn),
            timeout=_CONNECT_TIMEOUT,
            settings=_SESSION_SETTINGS,
            server_settings=_APPLICATION,
            **arguments,
        )


async def _first_answer(session: asyncpg.Connection, answer: Awaitable[_Answer]) -> _Answer:
    """What an old session answers: a server that is gone is noticed, and not waited for."""
    try:
        with translate_postgres_errors({}):
            return await answer
    except BaseException:
        _terminate(session)
        raise


async def _try_fence(session: asyncpg.Connection, key: str) -> bool:
    taken: bool | None = await session.fetchval(_TRY_FENCE, key, timeout=_CONNECT_TIMEOUT)
    if taken is None:
        raise read_only()
    return taken


async def _make_new(session: asyncpg.Connection) -> None:
    """Take locks and settings away, all but those that every session here has."""
    await session.execute(f"{session.get_reset_query()}\n{setting_statements(_SESSION_SETTINGS)}")


async def _keep_alive(connection: asyncpg.Connection) -> None:
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
            await connection.execute(f"SET lock_timeout = '{_SESSION_SETTINGS['lock_timeout']}'")
            return
    raise DatabaseFaultError("An earlier attempt still works on this database.", retryable=True)


async def _close(connection: asyncpg.Connection) -> None:
    """Close in good order: a statement that was cancelled has ended on the server when this returns."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except (*LOST, asyncpg.PostgresError):
        _terminate(connection)


def _terminate(connection: asyncpg.Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it had broken, and the pool has taken it back
        connection.terminate()
