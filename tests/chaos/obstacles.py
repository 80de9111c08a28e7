"""What another session, or an operator, does to databases and so comes into the way of jobs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg

from tests.chaos.evidence import BROKEN, connected
from tests.chaos.processes import frozen
from tests.chaos.workload import insist

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_POLL_SECONDS = 0.05
_DROP_SECONDS = 30
_COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = $2"
_END_DROPS = """
SELECT pg_terminate_backend(pid, 5000)
FROM pg_stat_activity JOIN pg_database ON position(pg_database.datname IN query) > 0
WHERE state = 'active' AND query LIKE 'DROP DATABASE%' AND usename = $1 AND datconnlimit = -2
"""


async def patient_session(dsn: str) -> _Connection:
    """A superuser's session, as soon as there can be one; the caller closes it."""
    while True:
        try:
            return await asyncpg.connect(dsn, timeout=10)
        except BROKEN:
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def locks(dsn: str, databases: Sequence[str]) -> AsyncIterator[None]:
    """A session stays idle in a transaction in which it has changed the databases; in the end it rolls back.

    Every other one has got a comment, which locks the database itself; the others a setting, which locks the
    row of it in the catalogue.
    """
    session = await patient_session(dsn)
    try:
        await session.execute("BEGIN")
        for number, database in enumerate(databases):
            if number % 2:
                await session.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
            else:
                await session.execute(f"COMMENT ON DATABASE \"{database}\" IS 'being looked at'")
        yield
    finally:
        session.terminate()


@asynccontextmanager
async def closed(dsn: str, database: str, role: str) -> AsyncIterator[None]:
    """The database admits no session of `role`, which is no superuser, and those that there were are ended.

    A server on which another database is served goes on, so that one can be away without the other.
    """
    await insist(dsn, f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
    try:
        with suppress(*BROKEN):
            async with connected(dsn) as server:
                await server.execute(_END_SESSIONS, database, role)
        yield
    finally:
        await insist(dsn, f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')


async def interrupt_drop(dsn: str, role: str, request: Callable[[], Awaitable[object]]) -> bool:
    """End the sessions of `role` that drop a database in the middle of it, once; returns whether there were.

    A DROP notes that the database is invalid, and then waits until every session has closed its files: one
    that is frozen meanwhile makes it wait.

    Args:
        dsn: a superuser's address.
        role: who drops.
        request: requests that a database is dropped; others may come before.
    """
    session = await patient_session(dsn)
    try:
        with frozen([session.get_server_pid()]):
            await request()
            return await _interrupted(dsn, role)
    finally:
        session.terminate()


async def _interrupted(dsn: str, role: str) -> bool:
    deadline = time.monotonic() + _DROP_SECONDS
    while time.monotonic() < deadline:
        with suppress(*BROKEN):
            async with connected(dsn) as server:
                if await server.fetch(_END_DROPS, role):
                    return True
        await asyncio.sleep(_POLL_SECONDS)
    return False


async def leave_invalid(dsn: str, database: str, fail: Callable[[], Awaitable[object]]) -> None:
    """Leave `database` as a delete does that gave up while its DROP was interrupted.

    Args:
        dsn: a superuser's address.
        database: the database.
        fail: requests the delete and waits until it has failed, which it does for want of the mark.
    """
    async with _without_mark(dsn, database):
        await fail()
    await insist(dsn, f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{database}'")  # noqa: S608


@asynccontextmanager
async def _without_mark(dsn: str, database: str) -> AsyncIterator[None]:
    session = await patient_session(dsn)
    try:
        comment = await session.fetchval(_COMMENT, database)
    finally:
        session.terminate()
    await insist(dsn, f'COMMENT ON DATABASE "{database}" IS NULL')
    try:
        yield
    finally:
        await insist(dsn, f"COMMENT ON DATABASE \"{database}\" IS '{comment}'")
