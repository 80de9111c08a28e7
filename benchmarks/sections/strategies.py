"""Bare CREATE DATABASE by strategy and template size: the reason for the service's choice of a strategy."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bare import DEFAULT_STRATEGY, BareServer, bare_server
from benchmarks.bench import Bench
from benchmarks.measurement import Chart, Findings, Measurement
from benchmarks.templates import TemplateSpec
from ods.databases.provisioning import FILE_COPY_FROM_BYTES

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    """A strategy, and for FILE_COPY the method by which files are copied."""

    strategy: str
    method: str = ""

    def __str__(self) -> str:
        return f"{self.strategy} {self.method}".strip()


_DEFAULT = Kind(DEFAULT_STRATEGY)
_BY_FILES = Kind("FILE_COPY", "copy")
_BY_REFERENCE = Kind("FILE_COPY", "clone")

Times = Mapping[Kind, list[float]]


def run(bench: Bench) -> Findings:
    """Clone every template by every kind, alternating."""
    # Two sizes more than elsewhere: the crossover lies between them.
    between = [TemplateSpec(size) for size in bench.pick((100, 200), quick=())]
    specs = sorted([bench.small, bench.many_tables, *between, bench.medium, bench.large], key=_size)
    times = asyncio.run(_measure(bench, specs))
    measurements = [found for spec in specs for found in _measurements(spec, times[spec])]
    return Findings(measurements, notes=[_crossover(times)], charts=[_chart(times)])


async def _measure(bench: Bench, specs: Sequence[TemplateSpec]) -> Mapping[TemplateSpec, Times]:
    async with bench.stacks.postgres(specs) as dsn, bare_server(dsn) as server:
        kinds = await _kinds(server)
        return {spec: await _alternate(server, spec, kinds, _rounds(bench, spec)) for spec in specs}


async def _kinds(server: BareServer) -> Sequence[Kind]:
    methods = await server.session.fetchval(
        "SELECT enumvals FROM pg_settings WHERE name = 'file_copy_method'"
    )
    return [_DEFAULT, _BY_FILES, *([_BY_REFERENCE] if "clone" in (methods or ()) else [])]


async def _alternate(server: BareServer, spec: TemplateSpec, kinds: Sequence[Kind], rounds: int) -> Times:
    """Times of every kind, alternating, so that other load affects all; the first round does not count."""
    times: Times = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            if kind.method:
                await server.session.execute(f"SET file_copy_method = {kind.method}")
            took = await server.create_after_flush(spec, kind.strategy)
            if number:
                times[kind].append(took)
    return times


def _rounds(bench: Bench, spec: TemplateSpec) -> int:
    return bench.pick(15 if _size(spec) <= FILE_COPY_FROM_BYTES else 5, quick=2)


def _size(spec: TemplateSpec) -> int:
    return spec.megabytes * _MEGABYTE


def _measurements(spec: TemplateSpec, times: Times) -> Sequence[Measurement]:
    bare = Measurement(f"{spec}: {_DEFAULT} (default)", times[_DEFAULT])
    others = [kind for kind in times if kind != _DEFAULT]
    return [bare, *(Measurement(f"{spec}: {kind}", times[kind], bare=bare) for kind in others)]


def _crossover(times: Mapping[TemplateSpec, Times]) -> str:
    wins = [str(spec) for spec in times if _median(times[spec], _BY_FILES) < _median(times[spec], _DEFAULT)]
    return (
        f"{_BY_FILES} beats {_DEFAULT} for {'; '.join(wins) or 'no size'}."
        f" The service copies files from {FILE_COPY_FROM_BYTES // _MEGABYTE} MB on."
    )


def _chart(times: Mapping[TemplateSpec, Times]) -> Chart:
    kinds = next(iter(times.values()))
    curves = {
        str(kind): [(spec.megabytes, _median(times[spec], kind)) for spec in times if spec.tables == 1]
        for kind in kinds
    }
    return Chart("Bare CREATE DATABASE", "template size, MB", "median, ms", curves)


def _median(times: Times, kind: Kind) -> float:
    return Measurement(str(kind), times[kind]).median
