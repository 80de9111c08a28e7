"""Lists of 25 out of many rows, over HTTP: by page, by id, by name."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg
import httpx

from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.registry_rows import insert_instances
from benchmarks.subprocesses import run_in_process
from ods.embedded.data_folder import StackFile

_PAGE = 25
_WARM_UP = 5
"""Rounds that do not count: connections are opened, and statements prepared."""
_LIMIT_MS = 20

_ONE_LIVE_OF = 10
"""As in an old registry: most rows are deleted ones."""


@dataclass(frozen=True)
class Query:
    """One list: the parameters of the request, and the same query in SQL."""

    parameters: Mapping[str, str | int]
    sql: str
    arguments: tuple[str | int, ...]


@dataclass
class Times:
    """Milliseconds of each round."""

    bare: list[float] = field(default_factory=list)
    listed: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Request every list, alternating with a bare query for the same rows."""
    rows, rounds = bench.pick((100_000, 300), quick=(1000, 10))
    with bench.stacks.fresh(ODS_RECONCILE_INTERVAL="86400", ODS_SPARES="0") as (_, stack):
        found = run_in_process(_measure, stack, rows, rounds)
    measurements, limits = [], []
    for name, times in found.items():
        bare = Measurement(f"bare query, {name}", times.bare)
        listed = Measurement(f"list of {_PAGE} of {rows:,}, {name}", times.listed, bare=bare)
        measurements += [bare, listed]
        limits.append(at_most(f"{listed.name}, p99", listed.p99, _LIMIT_MS))
    return Findings(measurements, limits)


async def _measure(stack: StackFile, rows: int, rounds: int) -> Mapping[str, Times]:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    try:
        await insert_instances(registry, rows, one_live_of=_ONE_LIVE_OF)
        queries = await _queries(registry, rows)
        found = {name: Times() for name in queries}
        async with Client(stack) as client:
            for _ in range(_WARM_UP + rounds):
                for name, query in queries.items():
                    found[name].bare.append(await _query(registry, query))
                    found[name].listed.append(await _list(client.http, query))
        return {name: Times(it.bare[_WARM_UP:], it.listed[_WARM_UP:]) for name, it in found.items()}
    finally:
        await registry.close()


async def _queries(registry: asyncpg.Connection, rows: int) -> Mapping[str, Query]:
    columns = "SELECT * FROM adminapi.dbinstances"
    page = f"{columns} ORDER BY id LIMIT {_PAGE} OFFSET $1"
    offsets = {"first page": 0, "page in the middle": rows // 2, "last page": rows - _PAGE}
    name = f"Listed {rows // 2}"
    number = await registry.fetchval("SELECT id FROM adminapi.dbinstances WHERE name = $1", name)
    return {
        **{position: Query({"offset": offset}, page, (offset,)) for position, offset in offsets.items()},
        "by id": Query({"id": number}, f"{columns} WHERE id = $1", (number,)),
        "by name": Query({"name": name}, f"{columns} WHERE name = $1", (name,)),
    }


async def _query(registry: asyncpg.Connection, query: Query) -> float:
    started = time.perf_counter()
    await registry.fetch(query.sql, *query.arguments)
    return milliseconds_since(started)


async def _list(http: httpx.AsyncClient, query: Query) -> float:
    started = time.perf_counter()
    answer = await http.get("/v2/dbInstances", params={"limit": _PAGE, **query.parameters})
    took = milliseconds_since(started)
    if not answer.raise_for_status().json():
        raise RuntimeError(f"There are no rows for {query.parameters}.")
    return took
