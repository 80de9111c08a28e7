"""The session whose snapshot a dump shows: it is idle in a transaction, which VACUUM must wait for."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.backups import snapshots
from ods.backups.errors import BackupFaultError, ProgramFailedError, explained_by
from ods.backups.snapshots import Database, snapshot
from ods.databases.server import Server
from ods.databases.statements import fetch_value
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.servers import service_dsn, session

_AGE = "SELECT extract(epoch FROM clock_timestamp() - xact_start) FROM pg_stat_activity WHERE pid = $1"


@pytest.fixture
async def maintenance(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    async with session(service_dsn(postgres, "postgres")) as connection:
        yield connection


async def test_session_is_ended_when_nothing_is_heard_of_its_process(
    server: Server, filled: str, maintenance: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that was suspended."""
    monkeypatch.setattr(snapshots, "_LONGEST_SILENCE", "200ms")
    monkeypatch.setattr(snapshots, "_PING_SECONDS", 3600)
    async with snapshot(Database(server, filled)) as opened:
        pid = opened.connection.get_server_pid()

        async def has_ended() -> bool:
            return await maintenance.fetchval(_AGE, pid) is None

        await wait_until(has_ended, 10)
        with pytest.raises(BackupFaultError) as raised:
            async with explained_by(opened.require_open):
                raise ProgramFailedError("pg_dump has failed.")
        assert raised.value.outage


async def test_session_is_kept_when_a_dump_takes_longer_than_it_may_be_silent(
    server: Server, filled: str, maintenance: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LONGEST_SILENCE", "1s")
    monkeypatch.setattr(snapshots, "_PING_SECONDS", 0.05)
    async with snapshot(Database(server, filled)) as opened:
        pid = opened.connection.get_server_pid()

        async def is_old() -> bool:
            age = await maintenance.fetchval(_AGE, pid)
            assert age is not None
            return bool(age > 3)

        await wait_until(is_old, 10)
        async with opened.session() as inside:
            assert await fetch_value(inside, "SELECT count(*) FROM public.filling") == 28000
