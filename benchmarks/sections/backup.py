"""Backup and restore of a database against pg_dump and pg_restore of the same database, alternating."""

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyrage

from benchmarks import dumps
from benchmarks.bench import Bench
from benchmarks.measurement import Findings, Measurement, at_most
from ods.backups.backing_up import back_up
from ods.backups.figures import verify
from ods.backups.manifest import BackupKey, BackupKind, BackupRequest, Manifest
from ods.backups.monitoring import Monitor
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.backups.stored_backups import delete_backup
from ods.databases.server import Server
from ods.programs.postgres import LOAD_SETTINGS

_SOURCE, _RESTORED = "bench_backed_up", "bench_restored"
_MEGABYTE = 1024 * 1024
_MOST = 1.1
_MOST_MEMORY = 100
_SAMPLE_SECONDS = 0.01
_SIZES = {80: 5, 800: 2}
"""Rounds for each size of the dump, in megabytes."""
_QUICK_SIZES = {5: 1}


@dataclass
class _Times:
    """Seconds of each round."""

    dumps: list[float] = field(default_factory=list)
    backups: list[float] = field(default_factory=list)
    encrypted: list[float] = field(default_factory=list)
    bare_restores: list[float] = field(default_factory=list)
    restores: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Dump and restore by turns; a backup also counts all rows, and both compute and check a SHA-256."""
    found = [
        asyncio.run(_measure(bench, megabytes, rounds))
        for megabytes, rounds in bench.pick(_SIZES, quick=_QUICK_SIZES).items()
    ]
    return Findings(
        [one for it in found for one in it.measurements], [one for it in found for one in it.limits]
    )


async def _measure(bench: Bench, megabytes: int, rounds: int) -> Findings:
    times = _Times()
    async with bench.stacks.postgres([]) as dsn, _server(dsn) as server:
        await dumps.make_source(dsn, _SOURCE, megabytes)
        with tempfile.TemporaryDirectory() as parent:
            round_ = _Round(dsn, server, Path(parent), times)
            for _ in range(rounds):
                await round_.measure()
    size = f"{megabytes} MB"
    dump = Measurement(f"{size}: pg_dump", times.dumps, "s")
    backup = Measurement(f"{size}: backup", times.backups, "s", dump)
    encrypted = Measurement(f"{size}: backup, encrypted", times.encrypted, "s", dump)
    bare = Measurement(f"{size}: pg_restore", times.bare_restores, "s")
    restored = Measurement(f"{size}: restore", times.restores, "s", bare)
    bare_both = Measurement(f"{size}: pg_dump and pg_restore", _sums(times.dumps, times.bare_restores), "s")
    both = Measurement(f"{size}: backup and restore", _sums(times.backups, times.restores), "s", bare_both)
    memory = Measurement(f"{size}: memory above rest", times.memory, "MB")
    limits = [
        at_most(f"{size}: backup and restore, of pg_dump and pg_restore", both.ratio or 0, _MOST, "x"),
        at_most(f"{size}: memory of this process above rest", max(memory.values), _MOST_MEMORY, "MB"),
    ]
    return Findings([dump, backup, encrypted, bare, restored, bare_both, both, memory], limits)


def _sums(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [sum(pair) for pair in zip(first, second, strict=True)]


class _Round:
    """What is measured in one round."""

    def __init__(self, dsn: str, server: Server, folder: Path, times: _Times) -> None:
        self._dsn = dsn
        self._times = times
        self._file = folder / "bare.dump"
        self._source = Database(server, _SOURCE)
        self._restored = Database(server, _RESTORED)
        self._store = BackupStore(folder.as_uri())
        self._monitor = Monitor(folder / "log")
        self._recipient = str(pyrage.x25519.Identity.generate().to_public())

    async def measure(self) -> None:
        """Measure each once."""
        times = self._times
        with _timed(times.dumps):
            await asyncio.to_thread(self._dump)
        manifest = await self._back_up(times.backups)
        await delete_backup(self._store, (await self._back_up(times.encrypted, self._recipient)).key)
        await dumps.make_empty(self._dsn, _RESTORED)
        with _timed(times.bare_restores):
            await asyncio.to_thread(self._restore)
        await dumps.make_empty(self._dsn, _RESTORED)
        with _timed(times.restores), _memory(times.memory):
            await restore(self._store, manifest, self._restored, self._monitor)
        if differences := await verify(self._restored, manifest.figures):
            raise AssertionError(differences)
        await delete_backup(self._store, manifest.key)

    async def _back_up(self, values: list[float], *recipients: str) -> Manifest:
        key = BackupKey("default", 1, uuid.uuid4())
        request = BackupRequest(key, uuid.uuid4(), "Benchmark", BackupKind.REQUESTED)
        with _timed(values), _memory(self._times.memory):
            return await back_up(self._source, self._store, request, self._monitor, recipients)

    def _dump(self) -> None:
        options = ("--format=custom", "--no-owner", "--no-privileges", f"--file={self._file}")
        dumps.call("pg_dump", *options, f"--dbname={dumps.at(self._dsn, _SOURCE)}")

    def _restore(self) -> None:
        settings = "%20".join(f"-c%20{name}%3D{value}" for name, value in LOAD_SETTINGS.items())
        address = f"{dumps.at(self._dsn, _RESTORED)}?options={settings}"
        dumps.call("pg_restore", "--no-owner", "--no-privileges", f"--dbname={address}", str(self._file))


@asynccontextmanager
async def _server(dsn: str) -> AsyncIterator[Server]:
    server = Server(dsn, restores_as_service=True)
    try:
        yield server
    finally:
        await server.close()


@contextmanager
def _timed(values: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    values.append(time.perf_counter() - started)


@contextmanager
def _memory(values: list[float]) -> Iterator[None]:
    """Add how many megabytes more this process had at most, without its children, than before."""
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def sample() -> None:
        nonlocal most
        while not ended.wait(_SAMPLE_SECONDS):
            most = max(most, process.memory_info().rss)

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield
    finally:
        ended.set()
        sampling.join()
    values.append((most - before) / _MEGABYTE)
