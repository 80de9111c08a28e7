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

from benchmarks import stock
from benchmarks.apart import apart, meanwhile
from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_least, at_most
from cli.data_folder import DataFolder, StackFile
from cli.polling import wait_until
from instances.naming import database_name
from instances.status import Template
from settings import Settings

_SPARES = 8
_CLIENTS = 6
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.01
_QUIET_SECONDS = 120
_TEMPLATE = Settings.model_fields["minimal_template"].default
_SETTINGS = {
    "ODS_SPARES": str(_SPARES),
    "ODS_SPARES_LIMIT": str(2 * _SPARES),
    # So that deaths cost little time, of which there are many.
    "ODS_HEARTBEAT_TIMEOUT": "2",
    "ODS_RECONCILE_INTERVAL": "20",
}

_COMPLETED = "SELECT count(*) FROM adminapi.jobstatuses WHERE status = 'Completed'"
_FAILED = "SELECT count(*) FROM adminapi.jobstatuses WHERE status = 'Error'"
_HANDED_OUT = """
SELECT id, oid::int8 FROM adminapi.dbinstances LEFT JOIN pg_database ON datname = databasename
WHERE status = 'Completed'
"""
# Of all databases, those that are nobody's: no instance's, no template, none of the server's own.
_NOBODYS = """
SELECT datname FROM pg_database
WHERE NOT datistemplate AND datname NOT IN ('postgres', current_database())
  AND datname NOT IN (SELECT databasename FROM adminapi.dbinstances WHERE status <> 'Deleted')
  AND NOT (oid = ANY($1))
"""


@dataclass
class Race:
    """What was seen: the oids of spares, the oid that each instance got, and how long it took."""

    seen: set[int] = field(default_factory=set)
    got: dict[int, int | None] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    @property
    def claims(self) -> int:
        """How many instances got a database that had been seen as a spare."""
        return sum(oid in self.seen for oid in self.got.values())


@dataclass(frozen=True)
class Verdict:
    """What is true afterwards, found with SQL alone."""

    twice: int
    leaked: Sequence[str]
    failed: int


def run(bench: Bench) -> Findings:
    """Let clients race for spares while the worker is killed again and again, then look what is left."""
    claims, kills = bench.thorough((1000, 20), quick=(12, 1))
    with bench.stacks.fresh(**_SETTINGS) as (folder, stack):
        bare = Measurement("bare clone of the template", apart(_clone, stack, bench.thorough(10, quick=2)))
        with meanwhile(_race, stack, claims) as racing:
            killed = asyncio.run(_kill(folder, stack, racing, claims // (kills + 1)))
        verdict = apart(_judge, stack, racing.result())
    return _findings(claims, killed, racing.result(), verdict, bare)


async def _clone(stack: StackFile, rounds: int) -> list[float]:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        await stock.until_ready(server.session, _TEMPLATE, _SPARES)
        return [await server.create_and_drop(_TEMPLATE) for _ in range(rounds)]


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
        while True:
            race.seen |= await stock.spares(server.session)
            await asyncio.sleep(_WATCH_SECONDS)


async def _claim_on(stack: StackFile, client_number: int, claims: int, race: Race) -> None:
    """Ask for an instance whenever there is a spare to see, until all clients together have enough."""
    async with Client(stack) as client, bare_server(stack["postgres"]["master_dsn"]) as server:
        number = 0
        while race.claims < claims:
            await stock.until_ready(server.session, _TEMPLATE, 1)
            number += 1
            name = f"Race {client_number} {number}"
            started = time.perf_counter()
            accepted = await client.request(name)
            await client.completed(accepted.job, _POLL_SECONDS)
            race.took.append(milliseconds_since(started))
            database = database_name(name, Template.MINIMAL)
            race.got[accepted.instance] = await stock.oid_of(server.session, database)


async def _kill(folder: DataFolder, stack: StackFile, racing: Future[Race], every: int) -> int:
    """Kill the worker whenever so many more creates are done, a moment later; returns how often."""
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    killed = 0
    while not racing.done():
        if await registry.fetchval(_COMPLETED) >= (killed + 1) * every:
            await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311 - guards no secret
            await _kill_worker(folder)
            killed += 1
        await asyncio.sleep(_POLL_SECONDS)
    await registry.close()
    return killed


async def _kill_worker(folder: DataFolder) -> None:
    """Returns when there is another one."""

    def pid() -> int:
        stack = folder.running_stack()
        return stack["worker"]["pid"] if stack else 0

    async def is_another() -> bool:
        return pid() not in {0, before}

    before = pid()
    os.kill(before, signal.SIGKILL)
    await wait_until(is_another, _QUIET_SECONDS)


async def _judge(stack: StackFile, race: Race) -> Verdict:
    registry = await asyncpg.connect(stack["postgres"]["admin_dsn"])
    leaked: list[str] = []

    async def is_tidy() -> bool:
        ready = await stock.ready_spares(registry, _TEMPLATE)
        sample = await stock.ready_spares(registry, Settings.model_fields["sample_template"].default)
        leaked[:] = [row[0] for row in await registry.fetch(_NOBODYS, [*ready, *sample])]
        return not leaked and len(ready) == len(sample) == _SPARES

    with suppress(TimeoutError):
        await wait_until(is_tidy, _QUIET_SECONDS)
    now = {row["id"]: row["oid"] for row in await registry.fetch(_HANDED_OUT)}
    owners = Counter(oid for oid in race.got.values() if oid)
    # Handed out again, a database would have left its first owner.
    moved = sum(oid is None or now.get(instance) != oid for instance, oid in race.got.items())
    failed = await registry.fetchval(_FAILED)
    await registry.close()
    return Verdict(sum(count > 1 for count in owners.values()) + moved, leaked, failed)


def _findings(claims: int, killed: int, race: Race, verdict: Verdict, bare: Measurement) -> Findings:
    took = Measurement("POST to Completed in the race", race.took, bare=bare)
    limits = [
        at_least("spares claimed", race.claims, claims),
        at_least("kills of the worker", killed, 1),
        at_most("spares handed out twice", verdict.twice, 0, ""),
        at_most("databases leaked", len(verdict.leaked), 0, ""),
        at_most("creates in error", verdict.failed, 0, ""),
    ]
    note = (
        f"{len(race.got)} creates, {race.claims} of them from the {len(race.seen)} spares that were seen;"
        f" {killed} kills of the worker. Nobody's databases: {', '.join(verdict.leaked) or 'none'}."
    )
    return Findings([bare, took], limits, [note])
