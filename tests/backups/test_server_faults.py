"""Faults of the server that pg_restore meets, which say nothing about the backup, and those of a backup."""

from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from ods.backups import restoring
from ods.backups.backing_up import back_up
from ods.backups.copying import copy_contents
from ods.backups.errors import BackupFaultError, ProgramFailedError
from ods.backups.manifest import BackupRequest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.embedded.postgres import EmbeddedPostgres
from ods.programs import process
from ods.programs.process import Command
from tests.servers import session

_REFUSED = {
    "no connection is free": ("CONNECTION LIMIT 0", "has no free connections"),
    "the login is locked": ("NOLOGIN", "refuses the login of ODS_RESTORE_DSN"),
    "the login has expired": ("VALID UNTIL '2020-01-01'", "refuses the login of ODS_RESTORE_DSN"),
}


@pytest.fixture(params=["backup", "copy"])
async def filling(
    request: pytest.FixtureRequest,
    folder_store: BackupStore,
    ods: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> Callable[[], Awaitable[None]]:
    """Fills the empty database, from a backup or from another database."""
    if request.param == "copy":
        return lambda: copy_contents(ods, empty, monitor)
    made = await back_up(ods, folder_store, wanted, monitor)
    return lambda: restore(folder_store, made, empty, monitor)


@pytest.fixture
async def login(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """What becomes of the login that restores before pg_restore starts: a test puts it in."""
    changes: list[str] = []
    start = process.start
    async with session(postgres.dsn("postgres")) as admin:

        async def start_after_changes(command: Command, log: Path, **ends: Any) -> Process:
            if command.name == "pg_restore":
                for change in changes:
                    await admin.execute(f"ALTER ROLE ods_restore {change}")
            return await start(command, log, **ends)

        monkeypatch.setattr(process, "start", start_after_changes)
        yield changes
        await admin.execute("ALTER ROLE ods_restore LOGIN CONNECTION LIMIT -1 VALID UNTIL 'infinity'")


@pytest.mark.parametrize("case", _REFUSED)
async def test_outage_is_told_when_the_server_refuses_the_session_of_pg_restore(
    filling: Callable[[], Awaitable[None]], login: list[str], case: str
) -> None:
    change, reason = _REFUSED[case]
    login.append(change)
    with pytest.raises(BackupFaultError, match=reason) as raised:
        await filling()
    assert raised.value.outage


async def test_outage_is_told_when_pg_restore_fails_and_the_disk_is_full(
    filling: Callable[[], Awaitable[None]],
    empty: Database,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _obstruct(empty)
    monkeypatch.setattr(restoring, "_WRITE", "DO $$ BEGIN RAISE SQLSTATE '53100'; END $$")
    with pytest.raises(BackupFaultError, match="has run out of disk space") as raised:
        await filling()
    assert raised.value.outage


async def test_fault_is_that_of_pg_restore_when_its_login_can_write(
    filling: Callable[[], Awaitable[None]], empty: Database
) -> None:
    await _obstruct(empty)
    with pytest.raises(ProgramFailedError, match="pg_restore has failed"):
        await filling()
    async with empty.server.connected(empty.name) as inside:
        assert await inside.fetch("SELECT FROM pg_namespace WHERE nspname LIKE 'ods_proof_%'") == []


async def _obstruct(database: Database) -> None:
    async with database.server.connected(database.name) as inside:
        await inside.execute("CREATE TYPE public.counted AS ENUM ()")


async def test_right_is_named_when_a_table_belongs_to_another_role(
    postgres: EmbeddedPostgres,
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
) -> None:
    async with session(postgres.dsn(quote(ods.name))) as superuser:
        await superuser.execute("CREATE TABLE of_a_superuser AS SELECT 42 AS answer")
        with pytest.raises(BackupFaultError, match="belongs to another role") as raised:
            await back_up(ods, folder_store, wanted, monitor)
        assert not raised.value.retryable
        assert await folder_store.list_objects() == []
        await superuser.execute("GRANT SELECT ON of_a_superuser TO ods_service")
    assert "public.of_a_superuser" in (await back_up(ods, folder_store, wanted, monitor)).figures.tables
