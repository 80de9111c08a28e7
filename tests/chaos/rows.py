"""Clients of the ODS/API, which write rows of data wherever it is routed to."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg

from tests.chaos.evidence import BROKEN, ROWS, TRASH, History, Target, connected, decrypted

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_PAUSE_SECONDS = 0.2
_WRITE_SECONDS = 10
_ROUTING = """
SELECT mark::text, routed.connectionstring
FROM dbo.odsinstances AS routed JOIN adminapi.dbinstances USING (odsinstanceid)
WHERE status <> 'Deleted' AND operation <> 'Purge'
    AND routed.connectionstring IS NOT NULL
ORDER BY odsinstanceid
"""
_COMMENT = """
SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()
"""


async def write_rows(target: Target, history: History, rng: random.Random) -> None:
    """Write rows to databases of instances, until this task is cancelled; note those that were confirmed."""
    for number in itertools.count(1):
        with suppress(*BROKEN):
            async with asyncio.timeout(_WRITE_SECONDS):
                await _write(target, history, rng, number)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _write(target: Target, history: History, rng: random.Random, number: int) -> None:
    async with connected(target.admin_dsn) as registry:
        routes = await registry.fetch(_ROUTING)
    if not routes:
        return
    # By turns any one, and one that has few.
    few = min(routes, key=lambda route: len(history.rows.get(route["mark"], ())))
    mark, connection_string = few if number % 2 else rng.choice(routes)
    pairs = decrypted(connection_string, target.encryption_key)
    if pairs["database"].startswith(TRASH):
        history.routed.add(pairs["database"])
        return
    async with routed(pairs) as session:
        # Since the routing was read, another database may have got the name.
        if mark in await session.fetchval(_COMMENT):
            await insert(session, number, mark)
            history.rows.setdefault(mark, set()).add(number)


@asynccontextmanager
async def routed(pairs: Mapping[str, str]) -> AsyncIterator[_Connection]:
    """A session on the database that a connection string of these pairs leads to, as the ODS/API has it."""
    session = await asyncpg.connect(
        host=pairs["host"],
        port=int(pairs["port"]),
        user=pairs["username"],
        password=pairs["password"],
        database=pairs["database"],
    )
    try:
        yield session
    finally:
        session.terminate()


async def insert(session: _Connection, number: int, mark: str) -> None:
    """Write a row of a client for the instance with this mark."""
    await session.execute(
        f"CREATE TABLE IF NOT EXISTS {ROWS} (number bigint PRIMARY KEY, mark uuid NOT NULL)"
    )
    await session.execute(f"INSERT INTO {ROWS} VALUES ($1, $2)", number, mark)  # noqa: S608 - no text of others
