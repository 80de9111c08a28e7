"""No account of the machine sees a secret among the arguments of a program."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from backups.backing_up import back_up
from backups.copying import copy_contents
from backups.manifest import BackupRequest
from backups.monitoring import Monitor
from backups.restoring import restore
from backups.snapshots import Database
from backups.storage import BackupStore
from databases.server import Server
from tests.servers import RESTORE_PASSWORD, SERVICE_PASSWORD

SECRET = "s3cret-of-the-key"


@pytest.fixture
async def seen() -> AsyncIterator[set[str]]:
    """The names and arguments of all programs that were running."""
    seen: set[str] = set()

    async def collect() -> None:
        while True:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    seen.update([child.name(), *child.cmdline()])
            await asyncio.sleep(0.01)

    collecting = asyncio.create_task(collect())
    yield seen
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)


def with_secret(database: Database) -> Database:
    mark = "&" if "?" in database.server.dsn else "?"
    login = database.server.restore_login
    assert login is not None
    secret = f"{mark}sslpassword={SECRET}"
    restoring = replace(login, source=f"{login.dsn}{secret}")
    return Database(Server(f"{database.server.dsn}{secret}", restoring), database.name)


def required(seen: set[str], *programs: str) -> None:
    assert set(programs) <= seen
    secrets = SECRET, SERVICE_PASSWORD, RESTORE_PASSWORD
    assert not [it for it in seen if any(secret in it for secret in secrets)]


async def test_no_argument_has_the_secret_when_a_backup_is_made_and_restored(
    folder_store: BackupStore,
    large: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    seen: set[str],
) -> None:
    made = await back_up(with_secret(large), folder_store, wanted, monitor)
    await restore(folder_store, made, with_secret(empty), monitor)
    required(seen, "pg_dump", "pg_restore")


async def test_no_argument_has_the_secret_when_a_copy_is_made(
    large: Database, empty: Database, monitor: Monitor, seen: set[str]
) -> None:
    await copy_contents(with_secret(large), with_secret(empty), monitor)
    required(seen, "pg_dump", "pg_restore")
