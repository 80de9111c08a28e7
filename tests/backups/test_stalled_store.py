"""A store that takes or gives nothing any more keeps no database of the server from being dropped."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import asyncpg
import pytest

from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError
from ods.backups.manifest import BackupRequest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore, StoreTimeouts
from ods.databases.server import Server
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.backups.obstructed_proxy import Obstacle, obstructed_proxy
from tests.backups.s3_server import S3Server
from tests.dumps import filling
from tests.servers import NUMBERS, service_dsn, session

# What a DROP may take is measured, and a dump must reach the limit while the store is still waited for.
pytestmark = pytest.mark.timed

STALL = 10
"""Seconds; without a limit of its own for what stalls, a request to a store may take four minutes."""
LATER = 3
"""Seconds that a DROP may take once the program has been ended, on a busy machine."""
_ROOM = 12 * 2**20
_A_WHILE = 0.5
"""Seconds; a session that waits for its client as long is held up by the store."""

# More than a store has in flight, and pipes hold: the dump has 50 MB.
_ROWS = 48_000


@pytest.fixture
async def larger(postgres: EmbeddedPostgres, server: Server) -> AsyncIterator[Database]:
    name = f"backups_larger_{next(NUMBERS)}"
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'CREATE DATABASE "{name}"')
        async with session(service_dsn(postgres, name)) as inside:
            await inside.execute(filling(_ROWS))
        yield Database(server, name)
        await maintenance.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def other(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """The name of a database that no backup is made of."""
    name = f"backups_other_{next(NUMBERS)}"
    await admin.execute(f'CREATE DATABASE "{name}"')
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}"')


async def waits(admin: asyncpg.Connection, database: Database, event: str) -> None:
    """Wait until a program's session on the database has waited for the program for a while in vain."""
    query = (
        "SELECT bytes_processed FROM pg_stat_activity AS session JOIN pg_stat_progress_copy USING (pid)"
        " WHERE session.datname = $1 AND application_name ~ '^pg_(dump|restore) ' AND wait_event = $2"
    )
    now = asyncio.get_running_loop().time
    since, reached = now(), None

    async def waits_long() -> bool:
        nonlocal since, reached
        before, reached = reached, await admin.fetchval(query, database.name, event)
        if reached is None or reached != before:
            since = now()
        return now() - since > _A_WHILE

    await wait_until(waits_long, 60)


async def seconds_to_drop(postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str) -> float:
    """How long a DROP takes that has to wait."""

    async def is_waiting() -> bool:
        query = "SELECT FROM pg_stat_activity WHERE query LIKE 'DROP %' AND wait_event = 'ProcSignalBarrier'"
        return bool(await admin.fetch(query))

    now = asyncio.get_running_loop().time
    async with session(postgres.dsn()) as another:
        began = now()
        dropping = asyncio.ensure_future(another.execute(f'DROP DATABASE "{name}"'))
        await wait_until(is_waiting, STALL)
        await dropping
        return now() - began


def stalling(bucket: str) -> BackupStore:
    return BackupStore(f"s3://{bucket}/of/backups", StoreTimeouts(stall=STALL))


async def test_another_database_is_dropped_soon_when_the_store_takes_nothing_any_more(
    s3: S3Server,
    bucket: str,
    larger: Database,
    other: str,
    wanted: BackupRequest,
    monitor: Monitor,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with obstructed_proxy(s3.port, _ROOM, Obstacle.HOLD) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        making = asyncio.ensure_future(back_up(larger, stalling(bucket), wanted, monitor))
        await waits(admin, larger, "ClientWrite")
        assert await seconds_to_drop(postgres, admin, other) < STALL + LATER
        with pytest.raises(BackupFaultError, match="too slow: it took or gave nothing") as raised:
            await making
    assert raised.value.outage


async def test_another_database_is_dropped_soon_when_the_store_gives_nothing_any_more(
    s3: S3Server,
    s3_store: BackupStore,
    bucket: str,
    large: Database,
    empty: Database,
    other: str,
    wanted: BackupRequest,
    monitor: Monitor,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await back_up(large, s3_store, wanted, monitor)
    async with obstructed_proxy(s3.port, _ROOM, Obstacle.HOLD) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        restoring = asyncio.ensure_future(restore(stalling(bucket), made, empty, monitor))
        await waits(admin, empty, "ClientRead")
        assert await seconds_to_drop(postgres, admin, other) < STALL + LATER
        with pytest.raises(BackupFaultError, match="too slow: it took or gave nothing") as raised:
            await restoring
    assert raised.value.outage


async def test_stream_is_stored_when_what_makes_it_takes_longer_than_the_store_may(bucket: str) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await asyncio.sleep(0.6)
        yield b"second"

    store = BackupStore(f"s3://{bucket}/of/backups", StoreTimeouts(stall=0.5))
    await store.write_stream("default/slow", chunks(), 11)
    assert await store.read("default/slow") == b"firstsecond"
