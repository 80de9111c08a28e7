"""Sessions on the PostgreSQL server that holds the ODS databases, and the fence of an instance.

The fence is an advisory lock, held by the very session that runs the instance's DDL: an attempt that has lost
its session has lost the fence, and can run no more DDL.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import asyncpg

from ods.databases.constants import APPLICATION_NAME
from ods.databases.errors import LOST, DatabaseFaultError, translate_postgres_errors
from ods.databases.ownership import Owner
from ods.databases.rights.restore_login import RestoreLogin
from ods.registry.storage.connecting import (
    PROBES_OF_THE_CLIENT,
    connect,
    ends_sessions,
    question,
    read_only,
    require_usable,
    setting_statements,
)
from ods.settings.secret_files import DsnSource, current

_Result = TypeVar("_Result")

_CONNECT_TIMEOUT = 10
_CLOSE_TIMEOUT = 10
_MAX_SESSIONS = 100
"""More than are ever needed: `ConcurrencyLimit` bounds how many databases are worked on at once."""
_IDLE_SECONDS = 60
"""How long an unused session is kept."""
_FENCE_TIMEOUT = "2s"
"""How long another session may hold a fence before it is ended: its activity has been given up."""
_FENCE_ATTEMPTS = 3

_APPLICATION = {"application_name": APPLICATION_NAME}
# The other settings are made once a session is open: in the first message, poolers accept the name only.
_EVERYWHERE = {
    # In an instance's database, other roles may have made a function `public.format(text, text)`, which
    # PostgreSQL would otherwise call in place of its own, with the rights of the service's role.
    "search_path": "pg_catalog",
    # The role or the server may have limits for the sake of other programs: large databases take longer to
    # copy and to drop, and a session that holds a lock may be idle meanwhile.
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
_SESSION_SETTINGS = {
    **_EVERYWHERE,
    # The server notices a killed client, ends its CREATE DATABASE and cleans up.
    "client_connection_check_interval": "500ms",
    # Instead of waiting, which would hold up other jobs, the step fails and is tried again.
    "lock_timeout": "3s",
    **PROBES_OF_THE_CLIENT,
}
_TRY_FENCE = """
SELECT CASE WHEN current_setting('transaction_read_only') = 'off'
    THEN pg_try_advisory_lock(hashtextextended($1, 0)) END
"""
"""True or false, or NULL on a session that cannot write."""
_TAKE_FENCE = "SELECT pg_advisory_lock(hashtextextended($1, 0))"
# pg_locks shows a 64-bit key as two halves (PostgreSQL's documentation of pg_locks).
_END_HOLDER = """
SELECT pg_terminate_backend(pid, 5000)
FROM pg_locks, hashtextextended($1, 0) AS key
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = key
"""


class Server:
    """Opens sessions on the server of the ODS databases; those on the maintenance database are pooled.

    Args:
        dsn: the server's maintenance database.
        restore_login: the login that fills databases from backups and other databases; None: there is none.
        restores_as_service: whether the login of `dsn` does so then; else nothing is restored.
    """

    def __init__(
        self, dsn: DsnSource, restore_login: RestoreLogin | None = None, *, restores_as_service: bool = False
    ) -> None:
        self._dsn = dsn
        self.restore_login = restore_login
        self.restores_as_service = restores_as_service
        self._question = question(current(dsn))
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def dsn(self) -> str:
        """The address of the maintenance database with the login, as it is now, for programs that connect."""
        return current(self._dsn)

    @property
    def restored_owner(self) -> str | None:
        """The role that owns what is restored; None if that is the service's."""
        return None if self.restore_login is None else self.restore_login.owner

    @property
    def pool_use(self) -> tuple[int, int, int]:
        """How many pooled sessions are in use, are idle, and may be open."""
        open_sessions, idle = (self._pool.get_size(), self._pool.get_idle_size()) if self._pool else (0, 0)
        return open_sessions - idle, idle, _MAX_SESSIONS

    async def close(self) -> None:
        """Close the pooled sessions."""
        if self._pool is not None:
            with suppress(TimeoutError):  # sessions that are still in use are closed all the same
                await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
            self._pool = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A session on the maintenance database without locks or settings of an earlier use.

        If the body raises anything, a cancellation included, the session is closed, otherwise pooled.
        """
        async with self._pooled() as session:
            await _first_statement(session, require_usable(session, self._question, _CONNECT_TIMEOUT))
            yield session

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        """A session on `database`, which is not pooled. Names of objects in it need their schemas.

        A database that a setting of its own makes read-only can be read.
        """
        with translate_postgres_errors({}):
            connection = await connect(
                current(self._dsn),
                database=database,
                timeout=_CONNECT_TIMEOUT,
                settings=_EVERYWHERE,
                read_only_database=True,
                server_settings=_APPLICATION,
            )
        try:
            yield connection
        finally:
            await asyncio.shield(_close(connection))

    @asynccontextmanager
    async def fenced(
        self, owner: Owner, before_waiting: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        """A session that alone may work on the databases of `owner`'s instance; see `locked`."""
        async with self.locked(owner.mark, before_waiting) as session:
            yield session

    @asynccontextmanager
    async def locked(
        self,
        key: str,
        before_waiting: Callable[[], Awaitable[object]] | None = None,
        longest_wait: str | None = None,
    ) -> AsyncIterator[asyncpg.Connection]:
        """A session that holds the advisory lock of `key`.

        Args:
            before_waiting: awaited if another session holds the lock, before that is waited for and, after
                some seconds, ended. If it raises, the other session is left alone.
            longest_wait: how long the other session may go on holding it; None: as long as a fence.
        """
        async with self._pooled() as session:
            if not await _first_statement(session, _try_fence(session, key)):
                if before_waiting is not None:
                    await before_waiting()
                with translate_postgres_errors({}):
                    await _take_fence(session, key, longest_wait or _FENCE_TIMEOUT)
            yield session

    @asynccontextmanager
    async def _pooled(self) -> AsyncIterator[asyncpg.Connection]:
        with translate_postgres_errors({}):
            pool = await self._opened_pool()
            acquired = await pool.acquire(timeout=_CONNECT_TIMEOUT)
        session = cast("asyncpg.Connection", acquired)  # the pool's proxy has all of its methods
        try:
            yield session
        except BaseException as fault:
            await asyncio.shield(_close(session))
            if ends_sessions(getattr(fault, "sqlstate", None)):
                await pool.expire_connections()  # the others are replaced when they are used next
            raise
        finally:
            with suppress(*LOST, asyncpg.PostgresError):  # then the pool has closed it
                await pool.release(acquired)

    async def _opened_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                connect=self._connected,
                min_size=0,
                max_size=_MAX_SESSIONS,
                max_inactive_connection_lifetime=_IDLE_SECONDS,
                reset=_reset,
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


async def _first_statement(session: asyncpg.Connection, statement: Awaitable[_Result]) -> _Result:
    """Await the first statement on a pooled session; if it fails, end the connection without waiting."""
    try:
        with translate_postgres_errors({}):
            return await statement
    except BaseException:
        _terminate(session)
        raise


async def leave_to_job() -> None:
    """As `before_waiting`: leave the session of a job that works on the instance alone."""
    raise DatabaseFaultError("A job works on the instance.", retryable=True)


async def _try_fence(session: asyncpg.Connection, key: str) -> bool:
    acquired: bool | None = await session.fetchval(_TRY_FENCE, key, timeout=_CONNECT_TIMEOUT)
    if acquired is None:
        raise read_only()
    return acquired


async def _reset(session: asyncpg.Connection) -> None:
    """Release all locks, and reset all settings to those that every session here has."""
    await session.execute(f"{session.get_reset_query()}\n{setting_statements(session, _SESSION_SETTINGS)}")


async def _take_fence(connection: asyncpg.Connection, key: str, longest_wait: str) -> None:
    await connection.execute(f"SET lock_timeout = '{longest_wait}'")
    for _ in range(_FENCE_ATTEMPTS):
        try:
            await connection.execute(_TAKE_FENCE, key)
        except asyncpg.LockNotAvailableError:
            await connection.execute(_END_HOLDER, key)
        else:
            await connection.execute(f"SET lock_timeout = '{_SESSION_SETTINGS['lock_timeout']}'")
            return
    raise DatabaseFaultError("An earlier attempt still works on this database.", retryable=True)


async def _close(connection: asyncpg.Connection) -> None:
    """Close after the last statement, which has ended on the server when this returns, even if cancelled."""
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except (*LOST, asyncpg.PostgresError):
        _terminate(connection)


def _terminate(connection: asyncpg.Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it had broken, and the pool has released it
        connection.terminate()
