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
from pathlib import Path

from benchmarks import dumps
from benchmarks.bench import Bench
from benchmarks.measurement import Findings, Measurement, at_most
from ods.embedded.registry import migrate
from ods.embedded.seeding import REGISTRY_DATABASE
from ods.settings.settings import KEY_BYTES

_SOURCE, _RESTORED = "bench_ods", "bench_restored"
_JOBS = 2
_MEGABYTE = 1024 * 1024
_MOST = 1.05


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
            dumps.call(
                "pg_dump", "--format", "custom", "--file", str(file), "--dbname", dumps.at(dsn, _SOURCE)
            )
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
    dumps.call(
        "pg_restore", "--no-owner", "--jobs", str(_JOBS), "--dbname", dumps.at(dsn, _RESTORED), str(file)
    )
    return time.perf_counter() - started


def _analyse(dsn: str) -> float:
    started = time.perf_counter()
    dumps.call(
        "vacuumdb", "--analyze-only", "--quiet", "--jobs", str(_JOBS), "--dbname", dumps.at(dsn, _RESTORED)
    )
    return time.perf_counter() - started


def _load(dsn: str, file: Path) -> float:
    key = base64.b64encode(bytes(KEY_BYTES)).decode()
    settings = {
        "ODS_ADMIN_DSN": dumps.at(dsn, REGISTRY_DATABASE),
        "ODS_MASTER_DSN": dsn,
        "ODS_INSTANCE_CONNECTION_STRING": "host=127.0.0.1;username=nobody;database=none",
        "ODS_ENCRYPTION_KEY": key,
        "ODS_TOKEN_SIGNING_KEY": key,
        "ODS_SHARED_SERVER": "true",
    }
    command = [sys.executable, "-m", "ods.cli", "template", "load", "Minimal", str(file)]
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - our own command
        [*command, "--jobs", str(_JOBS), "--yes"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | settings,
    )
    return time.perf_counter() - started


async def _make_source(dsn: str, megabytes: int) -> None:
    await dumps.make_source(dsn, _SOURCE, megabytes)
    await dumps.make_empty(dsn, REGISTRY_DATABASE)
    await migrate(dumps.at(dsn, REGISTRY_DATABASE))


async def _prepare(dsn: str) -> None:
    """An empty database to restore into, and everything written that earlier rounds have left."""
    async with dumps.session(dsn) as server:
        # Those that a load has replaced go with the next pass.
        for (left,) in await server.fetch("SELECT datname FROM pg_database WHERE datname ~ '^ods_template_'"):
            await server.execute(f'ALTER DATABASE "{left}" IS_TEMPLATE false')
            await server.execute(f'DROP DATABASE "{left}"')
    await dumps.make_empty(dsn, _RESTORED)
