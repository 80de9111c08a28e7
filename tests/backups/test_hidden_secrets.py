"""No account of the machine sees a secret among the arguments of a program."""

import asyncio
from asyncio.subprocess import Process
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ods.backups.backing_up import back_up
from ods.backups.copying import copy_contents
from ods.backups.manifest import BackupRequest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.server import Server
from tests.servers import RESTORE_PASSWORD, SERVICE_PASSWORD

SECRET = "s3cret-of-the-key"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The arguments of each program that was started, as any account can see them while it runs."""
    seen: list[tuple[str, ...]] = []
    start = asyncio.create_subprocess_exec

    async def recorded(*arguments: str, **options: Any) -> Process:
        seen.append(arguments)
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    return seen


def with_secret(database: Database) -> Database:
    mark = "&" if "?" in database.server.dsn else "?"
    login = database.server.restore_login
    assert login is not None
    secret = f"{mark}sslpassword={SECRET}"
    restoring = replace(login, source=f"{login.dsn}{secret}")
    return Database(Server(f"{database.server.dsn}{secret}", restoring), database.name)


def required(seen: list[tuple[str, ...]], *programs: str) -> None:
    connected = [it for it in seen if it[-1].startswith("--dbname=")]
    assert {Path(argument).name for it in connected for argument in it} >= set(programs)
    secrets = SECRET, SERVICE_PASSWORD, RESTORE_PASSWORD
    assert not [argument for it in seen for argument in it if any(secret in argument for secret in secrets)]


async def test_no_argument_has_the_secret_when_a_backup_is_made_and_restored(
    folder_store: BackupStore,
    large: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    seen: list[tuple[str, ...]],
) -> None:
    made = await back_up(with_secret(large), folder_store, wanted, monitor)
    await restore(folder_store, made, with_secret(empty), monitor)
    required(seen, "pg_dump", "pg_restore")


async def test_no_argument_has_the_secret_when_a_copy_is_made(
    large: Database, empty: Database, monitor: Monitor, seen: list[tuple[str, ...]]
) -> None:
    await copy_contents(with_secret(large), with_secret(empty), monitor)
    required(seen, "pg_dump", "pg_restore")
