"""Claims that race with one another, with refills and with deaths of the worker."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from benchmarks import spare_queries
from benchmarks.bare import BareServer, bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Chart, Findings, Measurement, at_least, at_most
from benchmarks.subprocesses import run_beside, run_in_process
from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.polling import wait_until
from ods.model.operations import Template
from ods.registry.instances.naming import database_name
from ods.settings.settings import Settings

_SPARES = 8
_CLIENTS = 6
_READY_PER_RACE = 3
"""Spares that must be ready before a client asks: fewer than clients, so that some of them get none."""
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.01
_RECOVERY_SECONDS = 120
_TEMPLATE = Settings.model_fields["minimal_template"].default
_OTHER_TEMPLATE = Settings.model_fields["sample_template"].default
_SETTINGS = {
    "ODS_SPARES": str(_SPARES),
    "ODS_SPARES_LIMIT": str(2 * _SPARES),
    # So that each of the many deaths of the worker costs little time.
    "ODS_HEARTBEAT_TIMEOUT": "2",
    "ODS_RECONCILE_INTERVAL": "20",
}

_COMPLETED = "SELECT count(*) FROM adminapi.jobstatuses WHERE status = 'Completed'"
_FAILED = "SELECT count(*) FROM adminapi.jobstatuses WHERE status = 'Error'"
_HANDED_OUT = """
SELECT id, oid::int8 FROM adminapi.dbinstances LEFT JOIN pg_database ON datname = databasename
WHERE status = 'Completed'
"""
# Databases without an owner: no instance's, no template, no wanted spare, nor the server's own.
_LEAKED = """
SELECT datname FROM pg_database
WHERE NOT datistemplate AND datname NOT IN ('postgres', current_database())
  AND datname NOT IN (SELECT databasename FROM adminapi.dbinstances WHERE status <> 'Deleted')
  AND NOT (oid = ANY($1))
"""


@dataclass(frozen=True)
class Plan:
    """How many spares to claim, and how often to kill the worker meanwhile."""

    claims: int
    kills: int


@dataclass
class Race:
    """What was observed.

    Attributes:
        seen: oids of all spares.
        got: the oid of each instance's database, by instance.
        took: milliseconds of each create.
        samples: seconds, number of spares, and number of claims.
    """

    seen: set[int] = field(default_factory=set)
    got: dict[int, int | None] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def claims(self) -> int:
        """How many instances got a database that had been seen as a spare."""
        return sum(oid in self.seen for oid in self.got.values())


@dataclass(frozen=True)
class Verdict:
    """The state after the race, read with SQL alone.

    Attributes:
        twice: databases that two instances got.
        leaked: databases without an owner.
        failed: jobs in error.
        full_after: seconds until the pool was full and nothing leaked.
    """

    twice: int
    leaked: Sequence[str]
    failed: int
    full_after: float


def run(bench: Bench) -> Findings:
    """Let clients race for spares while the worker is killed again and again, then check what is left."""
    plan = bench.pick(Plan(1000, 20), quick=Plan(40, 2))
    with bench.stacks.fresh(**_SETTINGS) as (folder, stack):
        bare = Measurement(
            "bare clone of the template", run_in_process(_clone, stack, bench.pick(10, quick=2))
        )
        with run_beside(_race, stack, plan.claims) as racing:
            killed = asyncio.run(_kill(folder, stack, racing, plan))
        verdict = run_in_process(_judge, stack, racing.result())
    return _findings(plan, killed, racing.result(), verdict, bare)


async def _clone(stack: StackFile, rounds: int) -> list[float]:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        await spare_queries.until_ready(server.session, _TEMPLATE, _SPARES)
        took = [await _clone_after_flush(server) for _ in range(rounds)]
        await server.clear()  # they would count as leaked
        return took


async def _clone_after_flush(server: BareServer) -> float:
    await server.flush()
    return await server.create(_TEMPLATE)


async def _race(stack: StackFile, claims: int) -> Race:
    race = Race()
    watching = asyncio.create_task(_watch(stack, race))
    try:
        await asyncio.gather(*(_claim_on(stack, number, claims, race) for number in range(_CLIENTS)))
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return race


async def _watch(stack: StackFile, race: Race) -> None:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        started = time.perf_counter()
        while True:
            now = await spare_queries.spares(server.session)
            race.seen |= now
            race.samples.append((time.perf_counter() - started, len(now), race.claims))
            await asyncio.sleep(_WATCH_SECONDS)


async def _claim_on(stack: StackFile, client_number: int, claims: int, race: Race) -> None:
    """Ask for an instance whenever there are some spares, until all clients together have enough."""
    async with Client(stack) as client, bare_server(stack["postgres"]["master_dsn"]) as server:
        number = 0
        while race.claims < claims:
            await spare_queries.until_ready(server.session, _TEMPLATE, _READY_PER_RACE)
            number += 1
            name = f"Race {client_number} {number}"
            started = time.perf_counter()
            accepted = await client.request(name)
            await client.completed(accepted.job, _POLL_SECONDS)
            race.took.append(milliseconds_since(started))
            database = database_name(name, Template.MINIMAL)
            race.got[accepted.instance] = await spare_queries.oid_of(server.session, database)


async def _kill(folder: DataFolder, stack: StackFile, racing: Future[Race], plan: Plan) -> int:
    """Kill the worker when another share of the creates is done, a moment later; returns how often."""
    every = plan.claims // (plan.kills + 1)
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    killed = 0
    while not racing.done():
        if killed < plan.kills and await registry.fetchval(_COMPLETED) >= (killed + 1) * every:
            await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311 - guards no secret
            await _kill_worker(folder)
            killed += 1
        await asyncio.sleep(_POLL_SECONDS)
    await registry.close()
    return killed


async def _kill_worker(folder: DataFolder) -> None:
    """Kill the worker; return when another one runs."""

    def pid() -> int:
        stack = folder.running_stack()
        return stack["worker"]["pid"] if stack else 0

    async def is_another() -> bool:
        return pid() not in {0, before}

    before = pid()
    os.kill(before, signal.SIGKILL)
    await wait_until(is_another, _RECOVERY_SECONDS)


async def _judge(stack: StackFile, race: Race) -> Verdict:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    leaked: list[str] = []
    started = time.perf_counter()

    async def is_full() -> bool:
        ready = [
            sorted(await spare_queries.ready_spares(registry, it)) for it in (_TEMPLATE, _OTHER_TEMPLATE)
        ]
        wanted = [oid for oids in ready for oid in oids[:_SPARES]]
        leaked[:] = [row[0] for row in await registry.fetch(_LEAKED, wanted)]
        return not leaked and len(wanted) == len(ready) * _SPARES

    with suppress(TimeoutError):
        await wait_until(is_full, _RECOVERY_SECONDS)
    full_after = time.perf_counter() - started
    now = {row["id"]: row["oid"] for row in await registry.fetch(_HANDED_OUT)}
    owners = Counter(oid for oid in race.got.values() if oid)
    # If a database was handed out twice, its first owner lacks it now.
    moved = sum(oid is None or now.get(instance) != oid for instance, oid in race.got.items())
    failed = await registry.fetchval(_FAILED)
    await registry.close()
    return Verdict(sum(count > 1 for count in owners.values()) + moved, leaked, failed, full_after)


def _findings(plan: Plan, killed: int, race: Race, verdict: Verdict, bare: Measurement) -> Findings:
    took = Measurement("POST to Completed in the race", race.took, bare=bare)
    limits = [
        at_least("spares claimed", race.claims, plan.claims),
        at_least("kills of the worker", killed, plan.kills),
        at_most("spares handed out twice", verdict.twice, 0, ""),
        at_most("databases leaked", len(verdict.leaked), 0, ""),
        at_most("creates in error", verdict.failed, 0, ""),
    ]
    note = (
        f"{len(race.got)} creates, {race.claims} of them from the {len(race.seen)} spares that were seen;"
        f" {killed} kills of the worker. After {verdict.full_after:.0f} s more, the pool was full again, and"
        f" these databases without an owner: {', '.join(verdict.leaked) or 'none'}."
    )
    spares = [(second, spares) for second, spares, _ in race.samples]
    claims = [(second, claims) for second, _, claims in race.samples]
    charts = [
        Chart("Spare databases of both templates, ready or not", "seconds", "spares", {"spares": spares}),
        Chart("Claims of spares", "seconds", "claims", {"claims": claims}),
    ]
    return Findings([bare, took], limits, [note], charts)
