"""A fresh clone, end to end: what the service adds to CREATE DATABASE, and to a POST."""

import time
from dataclasses import dataclass, field

import httpx

from benchmarks.apart import apart
from benchmarks.bare import DEFAULT_STRATEGY, BareServer, bare_server, strategy_for
from benchmarks.bare_api import bare_api
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_least, at_most
from benchmarks.templates import TemplateSpec
from cli.data_folder import StackFile
from instances.status import Template

_OVERHEAD_LIMIT_MS = 100
_ACCEPTED_LIMIT_MS = 25
_GAIN_LIMIT = 2


@dataclass
class Rounds:
    """Milliseconds of each round with one template."""

    bare: list[float] = field(default_factory=list)
    bare_post: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)

    @property
    def overhead(self) -> list[float]:
        """Round by round, what creating took beyond the bare clone."""
        return [whole - bare for whole, bare in zip(self.completed, self.bare, strict=True)]


def run(bench: Bench) -> Findings:
    """Create instances of four template sizes, in turns with bare clones, without spares."""
    found: dict[TemplateSpec, Rounds] = {}
    pairs = [((bench.tiny, 30), (bench.many_tables, 20)), ((bench.medium, 7), (bench.large, 7))]
    for minimal, sample in pairs:
        with bench.stacks.cloning(minimal[0], sample[0], ODS_SPARES="0") as stack:
            for template, (spec, rounds) in zip(Template, (minimal, sample), strict=True):
                found[spec] = _apart(bench, stack, spec, template, rounds)
            default = apart(_by_default, stack, bench.large, bench.thorough(5, quick=2))
    return _findings(bench, found, Measurement(f"{bench.large}: bare clone, {DEFAULT_STRATEGY}", default))


def _apart(bench: Bench, stack: StackFile, spec: TemplateSpec, template: Template, rounds: int) -> Rounds:
    with bare_api(stack["postgres"]["admin_dsn"]) as url:
        return apart(_measure, stack, url, spec, template, bench.thorough(rounds, quick=2))


async def _measure(
    stack: StackFile, bare_url: str, spec: TemplateSpec, template: Template, rounds: int
) -> Rounds:
    """After a round that does not count; the two kinds of clones take turns in being the first."""
    found = Rounds()
    async with (
        Client(stack) as client,
        bare_server(stack["postgres"]["master_dsn"]) as server,
        httpx.AsyncClient(trust_env=False) as bare_client,
    ):
        for number in range(-1, rounds):
            into = found if number >= 0 else Rounds()
            into.bare_post.append(await _bare_post(bare_client, bare_url))
            if number % 2:
                into.bare.append(await server.create_and_drop(spec.database, strategy_for(spec)))
            await _create(client, server, f"Fresh {spec.megabytes} {number + 1}", template, into)
            if not number % 2:
                into.bare.append(await server.create_and_drop(spec.database, strategy_for(spec)))
    return found


async def _create(client: Client, server: BareServer, name: str, template: Template, into: Rounds) -> None:
    await server.settle()
    created = await client.create(name, template)
    into.accepted.append(created.accepted)
    into.completed.append(created.completed)
    await client.delete(created.instance)


async def _bare_post(client: httpx.AsyncClient, url: str) -> float:
    started = time.perf_counter()
    answer = await client.post(url, json={"name": "Fresh", "databaseTemplate": "Minimal"})
    took = milliseconds_since(started)
    answer.raise_for_status()
    return took


async def _by_default(stack: StackFile, spec: TemplateSpec, rounds: int) -> list[float]:
    async with bare_server(stack["postgres"]["master_dsn"]) as server:
        return [await server.create_and_drop(spec.database, DEFAULT_STRATEGY) for _ in range(rounds)]


def _findings(bench: Bench, found: dict[TemplateSpec, Rounds], default: Measurement) -> Findings:
    measurements, limits = [], []
    for spec, rounds in found.items():
        bare = Measurement(f"{spec}: bare clone, {strategy_for(spec)}", rounds.bare)
        overhead = Measurement(f"{spec}: overhead of POST to Completed", rounds.overhead, bare=bare)
        whole = Measurement(f"{spec}: POST to Completed", rounds.completed, bare=bare)
        measurements += [bare, whole, overhead]
        limits.append(at_most(overhead.name + ", median", overhead.median, _OVERHEAD_LIMIT_MS))
    # The last of them, POST to Completed of the largest template.
    gain = default.median / Measurement("", found[bench.large].completed).median
    limits.append(at_least(f"{bench.large}: {DEFAULT_STRATEGY} / POST to Completed", gain, _GAIN_LIMIT, "x"))
    bare_post = Measurement("bare POST to 202", found[bench.tiny].bare_post)
    accepted = Measurement("POST to 202, one at a time", found[bench.tiny].accepted, bare=bare_post)
    limits.append(at_most(accepted.name + ", median", accepted.median, _ACCEPTED_LIMIT_MS))
    return Findings([bare_post, accepted, *measurements, default], limits)
