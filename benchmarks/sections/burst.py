"""Many creates at once, against the same clones made bare; and requests of another client meanwhile."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg

from benchmarks.bare import bare_server, create_many, strategy_for
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Chart, Findings, Measurement, at_most
from benchmarks.processes import IDLE, POSTGRES, ProcessorTimes
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec
from ods.embedded.data_folder import StackFile
from ods.embedded.polling import wait_until
from ods.model.operations import Template

_LIMIT = 1.3
_CONCURRENCIES = (1, 2, 3, 4, 8)
_VICTIMS = 4
_TIMEOUT_SECONDS = 600
_POLL_SECONDS = 0.25

_FINISHED = "SELECT count(*) FROM adminapi.jobstatuses WHERE jobid = ANY($1) AND finishedat IS NOT NULL"
# In seconds since 1970.
_LAST_FINISHED = """
SELECT extract(epoch FROM max(finishedat))::float8 FROM adminapi.jobstatuses WHERE jobid = ANY($1)
"""
# From the commit of the POST to that of the first status write.
_BEGUN = """
SELECT extract(epoch FROM startedat - createdat)::float8 * 1000 FROM adminapi.jobstatuses
WHERE jobid = ANY($1) AND startedat IS NOT NULL ORDER BY id
"""


@dataclass
class Burst:
    """Milliseconds of every round: of the burst, of other requests during it, bare, and alone."""

    total: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    other_create_accepted: list[float] = field(default_factory=list)
    other_create_completed: list[float] = field(default_factory=list)
    delete_accepted: list[float] = field(default_factory=list)
    delete_begun: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    bare_one: list[float] = field(default_factory=list)
    alone_accepted: list[float] = field(default_factory=list)
    alone_begun: list[float] = field(default_factory=list)
    processors: Mapping[str, list[float]] = field(default_factory=dict)
    bare_processors: Mapping[str, list[float]] = field(default_factory=dict)


def run(bench: Bench) -> Findings:
    """Find the best bare concurrency; then alternate bursts with the same clones at that concurrency."""
    clones, trial, rounds = bench.pick((100, 20, 3), quick=(6, 4, 1))
    spec = bench.many_tables
    with bench.stacks.cloning(spec, bench.small, ODS_SPARES="0") as stack:
        dsn = stack["postgres"]["master_dsn"]
        tried = {many: run_in_process(create_many, dsn, spec, trial, many) for many in _CONCURRENCIES}
        best = min(tried, key=tried.__getitem__)
        burst = run_in_process(_measure, stack, bench, clones, best, rounds)
    return _findings(spec, clones, best, burst, {many: took / trial for many, took in tried.items()})


async def _measure(stack: StackFile, bench: Bench, clones: int, best: int, rounds: int) -> Burst:
    burst = Burst()
    spec, others = bench.many_tables, bench.small
    dsn = stack["postgres"]["master_dsn"]
    processors, bare_processors = ProcessorTimes(stack), ProcessorTimes(stack)
    async with AsyncExitStack() as opened:
        registry = await opened.enter_async_context(asyncpg.create_pool(stack["postgres"]["admin_dsn"]))
        client = await opened.enter_async_context(Client(stack))
        other_client = await opened.enter_async_context(Client(stack, await client.register("other-client")))
        server = await opened.enter_async_context(bare_server(dsn))
        for number in range(rounds):
            await server.flush()
            with bare_processors.round(clones):
                burst.bare.append(await create_many(dsn, spec, clones, best))
            burst.bare_one.append(await server.create_after_flush(others, strategy_for(others)))
            await server.flush()
            await _Round(client, other_client, registry, number, burst).run(clones, processors)
        await _Round(client, other_client, registry, rounds, burst).run_beside_others(clones)
    burst.processors, burst.bare_processors = processors.rounds, bare_processors.rounds
    return burst


@dataclass(frozen=True)
class _Round:
    """One burst of requests of `client`."""

    client: Client
    other_client: Client
    registry: "asyncpg.Pool[asyncpg.Record]"
    number: int
    into: Burst

    async def run(self, clones: int, processors: ProcessorTimes) -> None:
        with processors.round(clones):
            started = time.time()
            jobs = await self._requested(clones)
            await self._until_finished(jobs, clones)
        last = await self.registry.fetchval(_LAST_FINISHED, jobs)
        self.into.total.append(1000 * (last - started))
        await self._record_begins(jobs)

    async def run_beside_others(self, clones: int) -> None:
        """When a quarter is done, `other_client` asks for an instance, and others are deleted.

        Its total does not count: to drop a database, PostgreSQL first writes all that the burst has left.
        """
        victims = [await self._alone(f"Victim {one}") for one in range(_VICTIMS)]
        jobs = await self._requested(clones)
        await self._until_finished(jobs, clones // 4)
        async with asyncio.TaskGroup() as others:
            other_create = others.create_task(self.other_client.create("Other", Template.SAMPLE))
            for victim in victims:
                others.create_task(self._delete(victim))
        await self._until_finished(jobs, clones)
        await self._record_begins(jobs)
        self.into.other_create_accepted.append(other_create.result().accepted)
        self.into.other_create_completed.append(other_create.result().completed)

    async def _requested(self, clones: int) -> Sequence[str]:
        names = [f"Burst {self.number} {one}" for one in range(clones)]
        return [it.job for it in await asyncio.gather(*map(self.client.request, names))]

    async def _record_begins(self, jobs: Sequence[str]) -> None:
        self.into.begun.extend(await self._begun(jobs))
        await asyncio.gather(*map(self.client.completed, jobs))  # raises if one ended in error

    async def _alone(self, name: str) -> int:
        """Create an instance while no other job runs."""
        accepted = await self.client.request(name, Template.SAMPLE)
        await self.client.completed(accepted.job)
        self.into.alone_accepted.append(accepted.took)
        self.into.alone_begun.extend(await self._begun([accepted.job]))
        return accepted.instance

    async def _delete(self, victim: int) -> None:
        accepted = await self.client.request_delete(victim)
        self.into.delete_accepted.append(accepted.took)
        await self.client.completed(accepted.job)
        self.into.delete_begun.extend(await self._begun([accepted.job]))

    async def _begun(self, jobs: Sequence[str]) -> Sequence[float]:
        return [row[0] for row in await self.registry.fetch(_BEGUN, jobs)]

    async def _until_finished(self, jobs: Sequence[str], enough: int) -> None:
        """Wait by one query for all jobs, four times a second: polling clients would be a load."""

        async def are_finished() -> bool:
            return bool(await self.registry.fetchval(_FINISHED, jobs) >= enough)

        await wait_until(are_finished, _TIMEOUT_SECONDS, _POLL_SECONDS)


def _findings(
    spec: TemplateSpec, clones: int, best: int, burst: Burst, tried: Mapping[int, float]
) -> Findings:
    bare = Measurement(f"{clones} bare clones of {spec}, {best} at once", burst.bare)
    total = Measurement(f"{clones} creates at once", burst.total, bare=bare)
    one = Measurement("bare clone, alone", burst.bare_one)
    accepted = Measurement("alone: POST to 202", burst.alone_accepted)
    begun = Measurement("alone: commit of the POST to InProgress", burst.alone_begun)
    measurements = [
        *(bare, total, one, accepted, begun),
        Measurement("burst: commit of the POST to InProgress", burst.begun, bare=begun),
        Measurement(
            "another client during the burst: POST to 202", burst.other_create_accepted, bare=accepted
        ),
        Measurement(
            "another client during the burst: POST to Completed", burst.other_create_completed, bare=one
        ),
        Measurement("delete meanwhile: DELETE to 202", burst.delete_accepted, bare=accepted),
        Measurement("delete meanwhile: commit to InProgress", burst.delete_begun, bare=begun),
        *_shares(burst),
    ]
    ratio = total.median / bare.median
    limits = [at_most(f"{clones} creates at once / bare clones at the best concurrency", ratio, _LIMIT, "x")]
    curve = {f"{spec}, {strategy_for(spec)}": list(tried.items())}
    chart = Chart("Bare clones at once", "sessions", "ms a clone", curve)
    return Findings(measurements, limits, charts=[chart])


def _shares(burst: Burst) -> Iterator[Measurement]:
    """Processor time of each server."""
    bare = {
        name: Measurement(f"processor time of {name}, a bare clone", burst.bare_processors[name])
        for name in (POSTGRES, IDLE)
    }
    yield from bare.values()
    for name, used in burst.processors.items():
        yield Measurement(f"processor time of {name}, a create", used, bare=bare.get(name))
