"""A scrape of the API's metrics with many rows and tenants: how long, how large, how many statements."""

import asyncio
import time
from dataclasses import dataclass, field

import asyncpg
import httpx

from benchmarks import services
from benchmarks.bench import Bench
from benchmarks.load import milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.registry_rows import insert_instances
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile
from ods.embedded.ports import free_ports

_LIMIT_MS = 200
_LIMIT_MB = 2
_BYTES = 1_000_000
_STATEMENTS_LIMIT = 2
"""For each registry: one that asks, one that checks a connection which was idle."""
_ONE_LIVE_OF = 10
_PAUSE_SECONDS = 5.5
"""Longer than an answer is shown again, so that each scrape asks."""
_STATISTICS_SECONDS = 12
"""After so long without a statement, PostgreSQL has counted those before."""

_TRANSACTIONS = """
SELECT sum(xact_commit)::int8 FROM pg_stat_database WHERE datname LIKE 'EdFi\\_Admin\\_tenant%'
"""


@dataclass
class Scrapes:
    """Milliseconds of scrapes that ask, and of those shortly after; bytes; statements of one that asks."""

    asking: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    size: int = 0
    statements: float = 0


def run(bench: Bench) -> Findings:
    """Scrape an API with as many registries as tenants, whose rows together are so many."""
    tenants, rows, rounds = bench.pick((100, 100_000, 12), quick=(3, 300, 2))
    names = [f"tenant{number}" for number in range(tenants)]
    pause = bench.pick(_STATISTICS_SECONDS, quick=0)
    with bench.stacks.fresh(ODS_SPARES="0", ODS_RECONCILE_INTERVAL="86400") as (folder, stack):
        registries = asyncio.run(_filled(stack, names, rows // tenants))
        port, metrics_port = free_ports(2)
        further = {"ODS_METRICS_PORT": str(metrics_port)}
        variables = services.settings(folder, stack, registries, **further)
        with services.api(folder, port, variables):
            found = run_in_process(_measure, stack, metrics_port, rounds, pause)
    of = f"{rows:,} rows of {tenants} tenants"
    asking = Measurement(f"scrape that asks, {of}", found.asking)
    shown = Measurement("scrape within five seconds after it", found.shown)
    size = Measurement("size of a scrape", [found.size / _BYTES], "MB")
    statements = Measurement("statements of a scrape, for each registry", [found.statements / tenants], "")
    return Findings(
        [asking, shown, size, statements],
        [
            at_most(f"{asking.name}, median", asking.median, _LIMIT_MS),
            at_most(size.name, size.median, _LIMIT_MB, "MB"),
            at_most(statements.name, statements.median, _STATEMENTS_LIMIT, ""),
        ],
    )


async def _filled(stack: StackFile, names: list[str], rows: int) -> dict[str, str]:
    registries = await services.make_registries(stack, names)
    for address in registries.values():
        registry = await asyncpg.connect(address)
        await insert_instances(registry, rows, one_live_of=_ONE_LIVE_OF)
        await registry.execute("VACUUM ANALYZE")  # autovacuum's transactions would count as those of scrapes
        await registry.close()
    return registries


async def _measure(stack: StackFile, port: int, rounds: int, pause: float) -> Scrapes:
    found = Scrapes()
    server = await asyncpg.connect(stack["postgres"]["master_dsn"])
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
        ) as client:
            await _scrape(client)  # opens connections
            await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.sleep(pause)
            before = await server.fetchval(_TRANSACTIONS)
            for _ in range(rounds):
                took, found.size = await _scrape(client)
                found.asking.append(took)
                found.shown.append((await _scrape(client))[0])
                await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.sleep(pause)
            found.statements = (await server.fetchval(_TRANSACTIONS) - before) / rounds
    finally:
        await server.close()
    return found


async def _scrape(client: httpx.AsyncClient) -> tuple[float, int]:
    started = time.perf_counter()
    answer = (await client.get("/metrics")).raise_for_status()
    took = milliseconds_since(started)
    if b"ods_instances{" not in answer.content:
        raise RuntimeError("The scrape does not tell of instances.")
    return took, len(answer.content)
