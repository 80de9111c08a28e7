"""Creates that claim a spare database, one at a time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks import spare_queries
from benchmarks.bare import DEFAULT_STRATEGY, bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, first_select, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_least, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec
from ods.embedded.data_folder import StackFile
from ods.model.operations import Template

_SPARES = 2
_MEDIAN_LIMIT_MS = 150
_P99_LIMIT_MS = 500
_SHARE_LIMIT = 0.1


@dataclass
class Claims:
    """Milliseconds from POST to the first SELECT, and how many of the databases had been spares."""

    took: list[float] = field(default_factory=list)
    had_been_spares: int = 0


def run(bench: Bench) -> Findings:
    """Claim spares of a small and a large template; whenever one is claimed, the pool is full."""
    small, large = bench.small, bench.large
    claims, clones = bench.pick((100, 5), quick=(3, 2))
    with bench.stacks.cloning(small, large, ODS_SPARES=str(_SPARES)) as stack:
        # Before instances are deleted, which would make every clone slower for a while.
        bare = Measurement(
            f"{large}: bare clone, {DEFAULT_STRATEGY} (default)", run_in_process(_clone, stack, large, clones)
        )
        found = {
            small: run_in_process(_claim_each, stack, small, Template.MINIMAL, claims),
            large: run_in_process(_claim_each, stack, large, Template.SAMPLE, claims),
        }
    return _findings(found, bare)


async def _claim_each(stack: StackFile, spec: TemplateSpec, template: Template, rounds: int) -> Claims:
    """Claim a spare in each round, after a round that does not count."""
    found = Claims()
    async with Client(stack) as client, bare_server(stack["postgres"]["master_dsn"]) as server:
        for number in range(-1, rounds):
            ready = await spare_queries.until_ready(server.session, spec.database, _SPARES)
            await server.flush()
            started = time.perf_counter()
            created = await client.create(f"Claim {spec.megabytes} {number + 1}", template)
            await first_select(stack, created.database)
            took = milliseconds_since(started)
            if number >= 0:
                found.took.append(took)
                found.had_been_spares += await spare_queries.oid_of(server.session, created.database) in ready
            await client.delete(created.instance)
    return found


async def _clone(stack: StackFile, spec: TemplateSpec, rounds: int) -> list[float]:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        await spare_queries.until_ready(server.session, spec.database, _SPARES)
        return [await server.create_after_flush(spec) for _ in range(rounds)]


def _findings(found: Mapping[TemplateSpec, Claims], bare: Measurement) -> Findings:
    measurements, limits = [bare], []
    for spec, claims in found.items():
        claim = Measurement(f"{spec}: POST to Completed and a SELECT, from a spare", claims.took, bare=bare)
        measurements.append(claim)
        limits += [
            at_most(f"{spec}: claim, median", claim.median, _MEDIAN_LIMIT_MS),
            at_most(f"{spec}: claim, p99", claim.p99, _P99_LIMIT_MS),
            at_most(f"{spec}: claim / {bare.name}", claim.median / bare.median, _SHARE_LIMIT, "x"),
            at_least(f"{spec}: databases that had been spares", claims.had_been_spares, len(claims.took)),
        ]
    return Findings(measurements, limits)
