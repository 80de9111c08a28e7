"""`ods template load` of a dump against pg_restore of the same dump with the same jobs, alternating."""

import asyncio
import base64
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from benchmarks.bench import Bench
from benchmarks.measurement import Findings, Measurement, at_most
from embedded import seeding
from embedded.postgres_binaries import installed_program
from embedded.registry import migrate
from embedded.seeding import REGISTRY_DATABASE
from settings import KEY_BYTES

_SOURCE, _RESTORED = "bench_ods", "bench_restored"
_TABLES = 8
_JOBS = 2
_MEGABYTE = 1024 * 1024
_ROW_BYTES = 1100
"""What a row of a table of filling takes in the dump."""
_MOST = 1.05
_ODS = Path(seeding.__file__).parent / "templates" / "minimal.sql"
# Digests cannot be compressed: a megabyte of them is one in the dump.
_FILL = """
CREATE TABLE filling_{0} AS
SELECT row, (SELECT string_agg(sha512(format('%s %s {0}', row, part)::bytea), '')
             FROM generate_series(1, 16) AS part) AS noise
FROM generate_series(1, {1}) AS row;
ALTER TABLE filling_{0} ADD PRIMARY KEY (row)
"""


def run(bench: Bench) -> Findings:
    """Load the same dump by turns; a load also checks, collects statistics and publishes."""
    return asyncio.run(_measure(bench))


async def _measure(bench: Bench) -> Findings:
    megabytes, rounds = bench.pick(500, quick=5), bench.pick(3, quick=1)
    restores, loads = [], []
    async with bench.stacks.postgres([]) as dsn:
        with tempfile.TemporaryDirectory() as parent:
            file = Path(parent) / "ods.dump"
            await _make_source(dsn, megabytes)
            _call("pg_dump", "--format", "custom", "--file", str(file), "--dbname", _at(dsn, _SOURCE))
            size = file.stat().st_size // _MEGABYTE
            for _ in range(rounds):
                await _prepare(dsn)
                restores.append(_restore(dsn, file))
                await _prepare(dsn)
                loads.append(_load(dsn, file))
    bare = Measurement(f"pg_restore --jobs {_JOBS}, dump of {size} MB", restores, "s")
    ours = Measurement(f"ods template load --jobs {_JOBS}", loads, "s", bare)
    limit = at_most("ods template load, of pg_restore", ours.ratio or 0, _MOST, "x")
    return Findings([bare, ours], [limit])


def _restore(dsn: str, file: Path) -> float:
    started = time.perf_counter()
    _call("pg_restore", "--no-owner", "--jobs", str(_JOBS), "--dbname", _at(dsn, _RESTORED), str(file))
    return time.perf_counter() - started


def _load(dsn: str, file: Path) -> float:
    key = base64.b64encode(bytes(KEY_BYTES)).decode()
    settings = {
        "ODS_ADMIN_DSN": _at(dsn, REGISTRY_DATABASE),
        "ODS_MASTER_DSN": dsn,
        "ODS_INSTANCE_CONNECTION_STRING": "host=127.0.0.1;username=nobody;database=none",
        "ODS_ENCRYPTION_KEY": key,
        "ODS_TOKEN_SIGNING_KEY": key,
        "ODS_SHARED_SERVER": "true",
    }
    command = [sys.executable, "-m", "cli", "template", "load", "Minimal", str(file)]
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - our own command
        [*command, "--jobs", str(_JOBS), "--yes"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | settings,
    )
    return time.perf_counter() - started


def _call(program: str, *arguments: str) -> None:
    subprocess.run([str(installed_program(program)), *arguments], check=True)  # noqa: S603 - PostgreSQL's own


async def _make_source(dsn: str, megabytes: int) -> None:
    async with _session(dsn) as server:
        await server.execute(f"CREATE DATABASE {_SOURCE}")
        await server.execute(f'CREATE DATABASE "{REGISTRY_DATABASE}"')
    await migrate(_at(dsn, REGISTRY_DATABASE))
    async with _session(_at(dsn, _SOURCE)) as source:
        await source.execute(_ODS.read_text())
        await source.execute("RESET search_path; SET synchronous_commit = off")
        rows = megabytes * _MEGABYTE // _TABLES // _ROW_BYTES
        for number in range(_TABLES):
            await source.execute(_FILL.format(number, rows))


async def _prepare(dsn: str) -> None:
    """An empty database to restore into, and everything written that earlier rounds have left."""
    async with _session(dsn) as server:
        await server.execute(f"DROP DATABASE IF EXISTS {_RESTORED}")
        await server.execute(f"CREATE DATABASE {_RESTORED} TEMPLATE template0")
        await server.execute("CHECKPOINT")


@asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    session = await asyncpg.connect(dsn)
    try:
        yield session
    finally:
        await session.close()


def _at(dsn: str, database: str) -> str:
    return f"{dsn.rpartition('/')[0]}/{database}"
