"""Connecting to PostgreSQL: to that host of a DSN which takes writes.

A DSN may name several hosts (`postgresql://user:password@a:5432,b:5433/database`). Unless it says otherwise
by `target_session_attrs`, only a session that can write is given out, so that a standby is passed over.
"""

import asyncio
import socket
import sys
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from ods.observability.tracing import statements

_READ_WRITE = "read-write"
_KEEPALIVE_IDLE = 30
_KEEPALIVE_INTERVAL = 10
_KEEPALIVE_COUNT = 3
"""Seconds, seconds, probes: without them, a statement on a server that lost its power waits for ever."""
PROBES_OF_THE_CLIENT = MappingProxyType(
    {
        "tcp_keepalives_idle": str(_KEEPALIVE_IDLE),
        "tcp_keepalives_interval": str(_KEEPALIVE_INTERVAL),
        "tcp_keepalives_count": str(_KEEPALIVE_COUNT),
    }
)
"""Parameters of a session by which its server notices as soon that the client has lost its power.

Network routers drop connections without traffic, as during a long clone.
"""

_NEXT_HOST_SECONDS = 0.5
"""After this time the next host is tried as well: one that has lost its power does not even refuse."""

_SINCE = {"transaction_timeout": 17}
"""The version of PostgreSQL since which there is a parameter."""

_YES = "SELECT 1"
"""The command tag of a query with one row."""
_ANSWERS = "SELECT 1"
# During recovery every transaction is read-only, so this covers standbys as well.
_CAN_WRITE = "SELECT 1 WHERE current_setting('transaction_read_only') = 'off'"
# An operator may have made one database read-only, which says nothing of the server.
_SERVER_CAN_WRITE = f"""
{_CAN_WRITE} OR NOT pg_is_in_recovery() AND EXISTS (
    SELECT FROM pg_settings WHERE name = 'default_transaction_read_only' AND source = 'database'
)
"""

READ_ONLY = asyncpg.ReadOnlySQLTransactionError.sqlstate
_SESSIONS_END = {READ_ONLY, "57P01", "57P02", "57P03"}
"""SQLSTATEs: read-only; shutting down, crashed, not accepting connections."""
_CONNECTION_FAULTS = "08"


async def connect(
    dsn: str,
    *,
    timeout: float,  # noqa: ASYNC109 - asyncpg's pool passes it on
    settings: Mapping[str, str] = MappingProxyType({}),
    read_only_database: bool = False,
    **arguments: Any,  # noqa: ANN401 - asyncpg's
) -> asyncpg.Connection:
    """A session on the first host of `dsn` that gives one with the wanted `target_session_attrs`.

    Args:
        dsn: the hosts, the login and the database.
        timeout: seconds to wait for a session, whichever host it is on.
        settings: parameters of the session, which are set once it is there: poolers refuse most of them in
            the message that opens it. Those that the server does not know are left out.
        read_only_database: whether a database is good as well that a setting of its own makes read-only.
        arguments: further arguments of `asyncpg.connect`.

    Raises:
        asyncpg.ReadOnlySQLTransactionError: hosts answered, but none takes writes.
        asyncpg.PostgresError: a host refused.
        OSError: no host can be reached in time.
    """
    wanted = question(dsn)
    if wanted == _CAN_WRITE and read_only_database:
        wanted = _SERVER_CAN_WRITE
    attempts = [
        partial(_connected, host, settings, wanted, {"timeout": timeout, **arguments})
        for host in _each_host(dsn)
    ]
    async with asyncio.timeout(timeout):
        return await attempts[0]() if len(attempts) == 1 else await _first_success(attempts)


def question(dsn: str) -> str:
    """The query that checks a session of `dsn` before it is used again: one row if it can be used."""
    wanted = parse_qs(urlsplit(dsn).query).get("target_session_attrs", [_READ_WRITE])[-1]
    return _CAN_WRITE if wanted == _READ_WRITE else _ANSWERS


async def require_usable(
    session: asyncpg.Connection,
    question: str,
    timeout: float | None = None,  # noqa: ASYNC109 - asyncpg's
) -> None:
    """Check `session` by the query `question`, in one round trip.

    Raises:
        asyncpg.ReadOnlySQLTransactionError: it cannot write.
        asyncpg.PostgresError: it cannot answer.
        OSError: its connection has broken, or there is no answer within `timeout` seconds.
    """
    # By the simple protocol, which every pooler understands; it returns only how many rows there are.
    if await session.execute(question, timeout=timeout) != _YES:
        raise read_only()


def read_only() -> asyncpg.ReadOnlySQLTransactionError:
    """The error with which PostgreSQL refuses a write in a session that cannot write."""
    return asyncpg.ReadOnlySQLTransactionError("the session is read-only")


def setting_statements(session: asyncpg.Connection, settings: Mapping[str, str]) -> str:
    """The SET statements for these parameters of a session, in one text, as far as its server knows them."""
    version = session.get_server_version().major
    known = {name: value for name, value in settings.items() if version >= _SINCE.get(name, version)}
    return "".join(f"SET {name} = '{value}'; " for name, value in known.items())


def ends_sessions(sqlstate: str | None) -> bool:
    """Whether the SQLSTATE means that no session on the same server can be used any more."""
    return sqlstate is not None and (sqlstate in _SESSIONS_END or sqlstate.startswith(_CONNECTION_FAULTS))


def _each_host(dsn: str) -> list[str]:
    """`dsn` once for each of its hosts."""
    address = urlsplit(dsn)
    login, at, hosts = address.netloc.rpartition("@")
    return [address._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]


async def _connected(
    dsn: str, settings: Mapping[str, str], wanted: str, arguments: Mapping[str, Any]
) -> asyncpg.Connection:
    if question(dsn) == _CAN_WRITE:
        # Checked below instead: asyncpg goes by what a pooler saw at its own first connection.
        arguments = {"target_session_attrs": "any", **arguments}
    try:
        session: asyncpg.Connection = await asyncpg.connect(dsn, **arguments)
    except asyncpg.TargetServerAttributeNotMatched:
        raise read_only() from None
    statements.observe(session)
    try:
        _keep_alive(session)
        await require_usable(session, f"{setting_statements(session, settings)}{wanted}")
    except BaseException:
        session.terminate()
        raise
    return session


def _keep_alive(session: asyncpg.Connection) -> None:
    """Have the kernel probe the server while no data arrive."""
    transport = session._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg offers no other way
    connected: socket.socket = transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if connected.family in {socket.AF_INET, socket.AF_INET6} and sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)


async def _first_success(
    attempts: Sequence[Callable[[], Awaitable[asyncpg.Connection]]],
) -> asyncpg.Connection:
    """The session of the first attempt that succeeds.

    Each attempt begins when the one before it has failed, or takes long.
    """
    waiting = list(attempts)
    started: list[asyncio.Task[asyncpg.Connection]] = []
    faults: list[BaseException] = []
    chosen: asyncio.Task[asyncpg.Connection] | None = None
    pending: set[asyncio.Task[asyncpg.Connection]] = set()
    try:
        while waiting or pending:
            if waiting:
                started.append(asyncio.ensure_future(waiting.pop(0)()))
                pending.add(started[-1])
            timeout = _NEXT_HOST_SECONDS if waiting else None
            done, pending = await asyncio.wait(pending, timeout=timeout, return_when=FIRST_COMPLETED)
            for task in done:
                if (fault := task.exception()) is None:
                    chosen = task
                    return task.result()
                faults.append(fault)
    finally:
        await _abandon([task for task in started if task is not chosen])
    raise _most_informative(faults)


def _most_informative(faults: Sequence[BaseException]) -> BaseException:
    """The fault that says most about what is wrong with a DSN, of those of its hosts."""
    for fault in faults:
        # A standby may not have heard of a new database: that it is missing counts if nothing else is wrong.
        if isinstance(fault, asyncpg.PostgresError) and not isinstance(
            fault, asyncpg.InvalidCatalogNameError
        ):
            return fault
    return next((fault for fault in faults if not isinstance(fault, asyncpg.PostgresError)), faults[0])


async def _abandon(attempts: Sequence["asyncio.Task[asyncpg.Connection]"]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, asyncpg.Connection):
            result.terminate()
