"""`ods template load` of a dump against PostgreSQL's own programs with the same jobs, alternating.

What is compared does the same: pg_restore, then vacuumdb for the statistics. A restore alone has none.
"""

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
from embedded.registry import migrate
from embedded.seeding import REGISTRY_DATABASE
from programs.postgres import client_program
from settings import KEY_BYTES

_SOURCE, _RESTORED = "bench_ods", "bench_restored"
_TABLES = 40
_JOBS = 2
_MEGABYTE = 1024 * 1024
_ROW_BYTES = 165
"""What a row of a table of filling takes in the dump."""
_MOST = 1.05
_ODS = Path(seeding.__file__).parent / "templates" / "minimal.sql"
# Columns, keys and indexes as the tables of an ODS have them.
_FILL = """
CREATE TABLE filling_{0} AS
SELECT row AS studentusi, date '2026-08-01' + row % 200 AS begindate, 255901000 + row % 50 AS schoolid,
       concat(encode(sha512(format('%s {0}', row)::bytea), 'hex'),
              encode(sha512(format('{0} %s', row)::bytea), 'hex')) AS words,
       gen_random_uuid() AS id, localtimestamp AS createdate, row::bigint AS changeversion
FROM generate_series(1, {1}) AS row;
ALTER TABLE filling_{0} ADD PRIMARY KEY (studentusi, begindate, schoolid);
ALTER TABLE filling_{0} ADD FOREIGN KEY (studentusi) REFERENCES filling_students;
CREATE UNIQUE INDEX ON filling_{0} (id);
CREATE INDEX ON filling_{0} (schoolid);
CREATE INDEX ON filling_{0} (changeversion)
"""
_STUDENTS = """
CREATE TABLE filling_students AS SELECT row AS studentusi FROM generate_series(1, {0}) AS row;
ALTER TABLE filling_students ADD PRIMARY KEY (studentusi)
"""


def run(bench: Bench) -> Findings:
    """Load the same dump by turns; a load also checks, collects statistics and publishes."""
    return asyncio.run(_measure(bench))


async def _measure(bench: Bench) -> Findings:
    megabytes, rounds = bench.pick(500, quick=5), bench.pick(3, quick=1)
    restores, analyses, loads = [], [], []
    async with bench.stacks.postgres([]) as dsn:
        with tempfile.TemporaryDirectory() as parent:
            file = Path(parent) / "ods.dump"
            await _make_source(dsn, megabytes)
            _call("pg_dump", "--format", "custom", "--file", str(file), "--dbname", _at(dsn, _SOURCE))
            size = file.stat().st_size // _MEGABYTE
            for _ in range(rounds):
                await _prepare(dsn)
                restores.append(_restore(dsn, file))
                analyses.append(_analyse(dsn))
                await _prepare(dsn)
                loads.append(_load(dsn, file))
    restore = Measurement(f"pg_restore --jobs {_JOBS}, dump of {size} MB", restores, "s")
    by_hand = [sum(both) for both in zip(restores, analyses, strict=True)]
    bare = Measurement(f"the same, then vacuumdb --analyze-only --jobs {_JOBS}", by_hand, "s", restore)
    ours = Measurement(f"ods template load --jobs {_JOBS}", loads, "s", bare)
    limit = at_most("ods template load, of pg_restore and vacuumdb", ours.ratio or 0, _MOST, "x")
    return Findings([restore, bare, ours], [limit])


def _restore(dsn: str, file: Path) -> float:
    started = time.perf_counter()
    _call("pg_restore", "--no-owner", "--jobs", str(_JOBS), "--dbname", _at(dsn, _RESTORED), str(file))
    return time.perf_counter() - started


def _analyse(dsn: str) -> float:
    started = time.perf_counter()
    _call("vacuumdb", "--analyze-only", "--quiet", "--jobs", str(_JOBS), "--dbname", _at(dsn, _RESTORED))
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
    subprocess.run([client_program(program), *arguments], check=True)  # noqa: S603 - PostgreSQL's own


async def _make_source(dsn: str, megabytes: int) -> None:
    async with _session(dsn) as server:
        await server.execute(f"CREATE DATABASE {_SOURCE}")
        await server.execute(f'CREATE DATABASE "{REGISTRY_DATABASE}"')
    await migrate(_at(dsn, REGISTRY_DATABASE))
    async with _session(_at(dsn, _SOURCE)) as source:
        await source.execute(_ODS.read_text())
        await source.execute("RESET search_path; SET synchronous_commit = off")
        rows = megabytes * _MEGABYTE // _TABLES // _ROW_BYTES
        await source.execute(_STUDENTS.format(rows))
        for number in range(_TABLES):
            await source.execute(_FILL.format(number, rows))


async def _prepare(dsn: str) -> None:
    """An empty database to restore into, and everything written that earlier rounds have left."""
    async with _session(dsn) as server:
        # Those that a load has replaced go with the next pass.
        for (left,) in await server.fetch("SELECT datname FROM pg_database WHERE datname ~ '^ods_template_'"):
            await server.execute(f'ALTER DATABASE "{left}" IS_TEMPLATE false')
            await server.execute(f'DROP DATABASE "{left}"')
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
