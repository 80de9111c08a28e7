"""Writers that are killed or cancelled: nothing is visible, nothing goes on, what is left is removed."""

import asyncio
import os
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest

from ods.backups import markers, stored_backups
from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError
from ods.backups.layout import dump_of, folder_of, manifest_of, marker_of
from ods.backups.manifest import BackupKey, BackupRequest
from ods.backups.markers import marked
from ods.backups.monitoring import Monitor, Progress
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore, StoredObject
from ods.backups.stored_backups import has_dump, list_backups, load_manifest, remove_unfinished
from ods.embedded.polling import wait_until
from tests.backups.s3_server import S3Server
from tests.backups.stores import names_in

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
LONG_AGO = timedelta(days=1)
ENOUGH_BYTES = 20 * 2**20


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """The time after which what is unfinished is removed, where a moment without a marker says enough."""
    lease = timedelta(seconds=0.6)
    monkeypatch.setattr(markers, "_RENEWAL", lease / 5)
    monkeypatch.setattr(stored_backups, "LEASE", lease)
    return 3 * lease


@asynccontextmanager
async def writer(database: Database, store: BackupStore, log: Path, key: BackupKey) -> AsyncIterator[Process]:
    """A process that has stored a part of a backup, and goes no further."""
    arguments = (database.server.dsn, database.name, store.location(), str(log), str(key.backup_id))
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.backups.writer", *arguments), cwd=ROOT, env=os.environ, stdout=PIPE
    )
    try:
        assert running.stdout is not None
        assert await running.stdout.readline() == b"in the middle\n"
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def sessions(admin: asyncpg.Connection, database: Database) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
    count: int = await admin.fetchval(query, database.name)
    return count


async def no_sessions(admin: asyncpg.Connection, database: Database) -> None:
    async def none() -> bool:
        return await sessions(admin, database) == 0

    await wait_until(none, 10)


async def test_nothing_is_visible_and_nothing_runs_when_a_writer_is_killed(
    store: BackupStore,
    folder: Path,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    admin: asyncpg.Connection,
    short_lease: timedelta,
) -> None:
    key = BackupKey("default", 1, wanted.key.backup_id)
    async with writer(large, store, monitor.log, key) as running:
        (program,) = psutil.Process(running.pid).children(recursive=True)
        assert program.name() == "pg_dump"
        assert await list_backups(store) == {}
        running.kill()
        await running.wait()
    gone, _ = psutil.wait_procs([program], 5)
    assert gone == [program]
    await no_sessions(admin, large)
    assert await list_backups(store) == {}
    assert await store.list_objects() != []
    await wait_until(lambda: _removes(store, short_lease, key), 10)
    assert await store.list_objects() == []
    assert names_in(folder) == []


async def test_unfinished_backup_is_kept_when_its_writer_lives(
    store: BackupStore, wanted: BackupRequest, short_lease: timedelta
) -> None:
    now = asyncio.get_running_loop().time
    async with marked(store, wanted.key):
        await store.write(dump_of(wanted.key, encrypted=False), b"a part of a dump")
        deadline = now() + 1.5 * short_lease.total_seconds()
        while now() < deadline:
            assert await remove_unfinished(store, short_lease) == []
            await asyncio.sleep(0.1)
    await wait_until(lambda: _removes(store, short_lease, wanted.key), 10)
    assert await store.list_objects() == []


async def _removes(store: BackupStore, older_than: timedelta, key: BackupKey) -> bool:
    return await remove_unfinished(store, older_than) == [key]


class _SlowClock(BackupStore):
    """A store whose clock is hours late."""

    async def list_objects(self, folder: str = "") -> list[StoredObject]:
        found = await super().list_objects(folder)
        return [replace(it, modified=it.modified - timedelta(hours=3)) for it in found]


async def test_unfinished_backup_is_kept_when_the_clock_of_the_store_is_late(
    folder: Path, wanted: BackupRequest
) -> None:
    store = _SlowClock(folder.as_uri())
    async with marked(store, wanted.key):
        assert await remove_unfinished(store, timedelta(minutes=30)) == []
    os.utime(folder / marker_of(wanted.key), (0, 0))
    assert await remove_unfinished(store, timedelta(minutes=30)) == [wanted.key]
    assert names_in(folder) == []


async def test_backup_is_kept_when_its_marker_was_left(
    folder: Path, folder_store: BackupStore, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    (folder / marker_of(wanted.key)).write_text("left")
    for path in folder.rglob("*"):  # noqa: ASYNC240 - at once
        os.utime(path, (0, 0))
    assert await remove_unfinished(folder_store, LONG_AGO) == [wanted.key]
    assert not (folder / marker_of(wanted.key)).exists()
    assert await load_manifest(folder_store, wanted.key) == made
    assert await remove_unfinished(folder_store, LONG_AGO) == []


async def test_dump_stays_and_is_told_when_its_manifest_was_lost(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = await back_up(ods, folder_store, wanted, monitor)
    manifest, dump = folder / manifest_of(wanted.key), folder / dump_of(wanted.key, encrypted=False)
    content = manifest.read_bytes()
    manifest.unlink()
    os.utime(dump, (0, 0))
    assert await remove_unfinished(folder_store, LONG_AGO) == []
    assert f"{folder_store.location(folder_of(wanted.key))} has no manifest" in caplog.text
    assert dump.exists()
    manifest.write_bytes(content)
    assert await load_manifest(folder_store, wanted.key) == made


class _Stuck(BackupStore):
    """A store that does not let some objects go."""

    stuck = ""

    async def delete(self, path: str) -> None:
        if path.startswith(self.stuck):
            raise BackupFaultError("refused")
        await super().delete(path)


async def interrupted(folder: Path, store: BackupStore, key: BackupKey) -> None:
    """Have a part of a dump in the store, whose writer has died long ago."""
    for path in (marker_of(key), dump_of(key, encrypted=False)):
        await store.write(path, b"a part of a dump")
        os.utime(folder / path, (0, 0))


async def test_others_are_removed_when_the_store_does_not_let_one_go(
    folder: Path, wanted: BackupRequest
) -> None:
    store, another = _Stuck(folder.as_uri()), replace(wanted.key, backup_id=uuid.UUID(int=2**128 - 1))
    for key in (wanted.key, another):
        await interrupted(folder, store, key)
    store.stuck = dump_of(wanted.key, encrypted=False)
    with pytest.raises(BackupFaultError, match="refused"):
        await remove_unfinished(store, LONG_AGO)
    told = []

    @contextmanager
    def removing(key: BackupKey) -> Iterator[None]:
        try:
            yield
        except BackupFaultError:
            told.append(key)

    await remove_unfinished(store, LONG_AGO, removing=removing)
    assert told == [wanted.key]
    # The marker goes last: without it, what is left would be a backup whose manifest was lost.
    left = [marker_of(wanted.key), dump_of(wanted.key, encrypted=False)]
    assert sorted(it.path for it in await store.list_objects()) == sorted(left)
    assert await remove_unfinished(BackupStore(folder.as_uri()), LONG_AGO) == [wanted.key]
    assert names_in(folder) == []


async def test_removal_is_refused_when_writers_may_live(folder_store: BackupStore) -> None:
    with pytest.raises(ValueError, match="at least"):
        await remove_unfinished(folder_store, timedelta(minutes=14))


async def test_backup_is_given_up_when_its_marker_could_not_be_renewed(
    folder: Path,
    folder_store: BackupStore,
    ods: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(markers, "LEASE", timedelta(0))
    with pytest.raises(BackupFaultError, match="It was given up") as raised:
        await back_up(ods, folder_store, wanted, monitor)
    assert raised.value.outage
    assert names_in(folder) == []


async def test_nothing_is_left_when_a_backup_is_cancelled(
    store: BackupStore,
    folder: Path,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    admin: asyncpg.Connection,
) -> None:
    def cancel(progress: Progress) -> None:
        if progress.bytes > ENOUGH_BYTES:
            making.cancel()

    making = asyncio.ensure_future(back_up(large, store, wanted, Monitor(monitor.log, cancel)))
    with pytest.raises(asyncio.CancelledError):
        await making
    assert await store.list_objects() == []
    assert names_in(folder) == []
    assert [it.name() for it in psutil.Process().children() if it.name() == "pg_dump"] == []
    await no_sessions(admin, large)


class _LateManifests(BackupStore):
    """A store that carries out the request for a manifest only when its writer has given up."""

    async def write(self, path: str, content: bytes) -> None:
        if not path.endswith("manifest.json"):
            return await super().write(path, content)
        try:
            raise asyncio.CancelledError
        finally:
            self.late = asyncio.create_task(super().write(path, content))


async def test_backup_is_whole_when_it_is_cancelled_and_the_store_writes_its_manifest_all_the_same(
    folder: Path, ods: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    store = _LateManifests(folder.as_uri())
    with pytest.raises(asyncio.CancelledError):
        await back_up(ods, store, wanted, monitor)
    await store.late
    assert await has_dump(store, await load_manifest(store, wanted.key))


async def test_no_upload_is_left_when_a_backup_is_cancelled(
    s3: S3Server, bucket: str, s3_store: BackupStore, large: Database, wanted: BackupRequest, monitor: Monitor
) -> None:
    begun: list[int] = []

    async def cancel() -> None:
        begun.append(await s3.unfinished_uploads(bucket))
        making.cancel()

    def report(progress: Progress) -> None:
        if progress.bytes > ENOUGH_BYTES and not cancelling:
            cancelling.append(asyncio.ensure_future(cancel()))

    cancelling: list[asyncio.Future[None]] = []
    making = asyncio.ensure_future(back_up(large, s3_store, wanted, Monitor(monitor.log, report)))
    with pytest.raises(asyncio.CancelledError):
        await making
    assert begun == [1]
    assert await s3.unfinished_uploads(bucket) == 0


async def test_pg_restore_ends_when_a_restore_is_cancelled(
    folder_store: BackupStore,
    large: Database,
    empty: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    admin: asyncpg.Connection,
) -> None:
    def cancel(progress: Progress) -> None:
        if progress.percent > 50:
            restoring.cancel()

    made = await back_up(large, folder_store, wanted, monitor)
    restoring = asyncio.ensure_future(restore(folder_store, made, empty, Monitor(monitor.log, cancel)))
    with pytest.raises(asyncio.CancelledError):
        await restoring
    await no_sessions(admin, empty)


async def test_backup_is_an_outage_when_the_server_ends_its_sessions(
    folder: Path,
    folder_store: BackupStore,
    large: Database,
    wanted: BackupRequest,
    monitor: Monitor,
    admin: asyncpg.Connection,
) -> None:
    ending: list[asyncio.Future[str]] = []

    def end(_: Progress) -> None:
        if not ending:
            statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"
            ending.append(asyncio.ensure_future(admin.execute(statement.format(large.name))))

    with pytest.raises(BackupFaultError, match=r"ended the connection|cannot be reached") as raised:
        await back_up(large, folder_store, wanted, Monitor(monitor.log, end))
    assert raised.value.outage
    assert names_in(folder) == []
