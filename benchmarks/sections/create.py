"""A fresh clone, end to end: what the service adds to CREATE DATABASE, and to a POST."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from benchmarks.bare import DEFAULT_STRATEGY, BareServer, bare_server, strategy_for
from benchmarks.bare_api import bare_api
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_least, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec
from ods.embedded.data_folder import StackFile
from ods.model.operations import Template

_OVERHEAD_LIMIT_MS = 100
_ACCEPTED_LIMIT_MS = 25
_GAIN_LIMIT = 2


@dataclass
class Rounds:
    """Milliseconds of each round with one template; of the bare clones, by strategy."""

    bare: dict[str, list[float]] = field(default_factory=dict)
    bare_post: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)

    def overhead(self, strategy: str) -> list[float]:
        """Milliseconds that each create took beyond its bare clone."""
        return [total - bare for total, bare in zip(self.completed, self.bare[strategy], strict=True)]


def run(bench: Bench) -> Findings:
    """Create instances of two templates without data, alternating with bare clones, without spares."""
    return _findings(bench.large, _measured(bench, {bench.small: 30, bench.many_tables: 20}))


def run_large(bench: Bench) -> Findings:
    """The same for two templates with data."""
    return _findings(bench.large, _measured(bench, {bench.medium: 15, bench.large: 15}))


def _measured(bench: Bench, rounds: Mapping[TemplateSpec, int]) -> Mapping[TemplateSpec, Rounds]:
    found: dict[TemplateSpec, Rounds] = {}
    with bench.stacks.cloning(*rounds, ODS_SPARES="0") as stack:
        for template, (spec, times) in zip(Template, rounds.items(), strict=True):
            with bare_api(stack["postgres"]["admin_dsn"]) as url:
                work = _Work(stack, url, spec, template)
                found[spec] = run_in_process(work.measure, bench.pick(times, quick=2))
    return found


@dataclass(frozen=True)
class _Work:
    """The stack, and the template to create instances of."""

    stack: StackFile
    bare_url: str
    spec: TemplateSpec
    template: Template

    async def measure(self, rounds: int) -> Rounds:
        """Measure after a round that does not count; in every other round, the bare clone comes first.

        If the service does not use the default strategy, clones by that one come before and after all rounds:
        they write more, which on a shared disk slows what is measured next.
        """
        found = Rounds()
        async with (
            Client(self.stack) as client,
            bare_server(self.stack["postgres"]["master_dsn"]) as server,
            httpx.AsyncClient(base_url=self.bare_url, trust_env=False) as bare_client,
        ):
            await self._clone_by_default(server, rounds // 2, found)
            for number in range(-1, rounds):
                into = found if number >= 0 else Rounds()
                into.bare_post.append(await _bare_post(bare_client))
                if number % 2:
                    await self._clone(server, strategy_for(self.spec), into)
                await server.flush()
                await self._create(client, f"Fresh {self.spec.megabytes} {number + 1}", into)
                if not number % 2:
                    await self._clone(server, strategy_for(self.spec), into)
            await self._clone_by_default(server, rounds - rounds // 2, found)
        return found

    async def _clone_by_default(self, server: BareServer, times: int, into: Rounds) -> None:
        if strategy_for(self.spec) != DEFAULT_STRATEGY:
            for _ in range(times):
                await self._clone(server, DEFAULT_STRATEGY, into)

    async def _clone(self, server: BareServer, strategy: str, into: Rounds) -> None:
        took = await server.create_after_flush(self.spec, strategy)
        into.bare.setdefault(strategy, []).append(took)

    async def _create(self, client: Client, name: str, into: Rounds) -> None:
        created = await client.create(name, self.template)
        into.accepted.append(created.accepted)
        into.completed.append(created.completed)
        if self.spec.is_large:
            await client.delete(created.instance)


async def _bare_post(client: httpx.AsyncClient) -> float:
    started = time.perf_counter()
    answer = await client.post("/", json={"name": "Fresh", "databaseTemplate": "Minimal"})
    took = milliseconds_since(started)
    answer.raise_for_status()
    return took


def _findings(largest: TemplateSpec, found: Mapping[TemplateSpec, Rounds]) -> Findings:
    bare_post = Measurement("bare POST to 202", [it for each in found.values() for it in each.bare_post])
    accepted = Measurement(
        "POST to 202, one at a time", [it for each in found.values() for it in each.accepted], bare=bare_post
    )
    measurements = [bare_post, accepted]
    limits = [at_most(f"{accepted.name}, median", accepted.median, _ACCEPTED_LIMIT_MS)]
    for spec, rounds in found.items():
        bare = {it: Measurement(f"{spec}: bare clone, {it}", times) for it, times in rounds.bare.items()}
        same = bare[strategy_for(spec)]
        total = Measurement(f"{spec}: POST to Completed", rounds.completed, bare=same)
        beyond = Measurement(
            f"{total.name}, less the bare clone", rounds.overhead(strategy_for(spec)), bare=same
        )
        measurements += [*bare.values(), total, beyond]
        limits.append(at_most(f"{beyond.name}, median", beyond.median, _OVERHEAD_LIMIT_MS))
        if spec == largest:
            gain = bare[DEFAULT_STRATEGY].median / total.median
            limits.append(
                at_least(f"{bare[DEFAULT_STRATEGY].name} / POST to Completed", gain, _GAIN_LIMIT, "x")
            )
    return Findings(measurements, limits)
