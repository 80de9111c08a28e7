"""Protecting an instance, its way to the trash and back: the same at any size."""

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Limit, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec
from ods.embedded.data_folder import StackFile
from ods.model.operations import Template

_LIMIT_MS = 150
_SIZES_MB = (8, 80, 476)
_QUICK_SIZES_MB = (8, 16)


@dataclass
class Rounds:
    """Milliseconds of each round with one size, from the request to its answer or to the end of its job."""

    protect: list[float] = field(default_factory=list)
    trash: list[float] = field(default_factory=list)
    undelete: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Protect one instance of each size, move it to the trash and bring it back, again and again."""
    specs = [TemplateSpec(megabytes) for megabytes in bench.pick(_SIZES_MB, quick=_QUICK_SIZES_MB)]
    found: dict[TemplateSpec, Rounds] = {}
    # A stack has two templates.
    for spec in specs:
        with bench.stacks.cloning(spec, bench.small, ODS_SPARES="0") as stack:
            found[spec] = run_in_process(_measure, stack, spec, bench.pick(50, quick=2))
    return _findings(found)


async def _measure(stack: StackFile, spec: TemplateSpec, rounds: int) -> Rounds:
    """Measure after a round that does not count."""
    found = Rounds()
    async with Client(stack) as client, bare_server(stack["postgres"]["master_dsn"]) as server:
        instance = (await client.create(f"Life {spec.megabytes}", Template.MINIMAL)).instance
        await server.flush()
        for number in range(-1, rounds):
            into = found if number >= 0 else Rounds()
            into.protect.append(await _timed(client.change(instance, {"protected": True})))
            await client.change(instance, {"protected": False})
            into.trash.append(await _timed(client.delete(instance)))
            into.undelete.append(await _timed(client.undelete(instance)))
        await client.delete(instance)
    return found


async def _timed(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return milliseconds_since(started)


def _findings(found: Mapping[TemplateSpec, Rounds]) -> Findings:
    measurements = [
        measurement
        for spec, rounds in found.items()
        for measurement in (
            Measurement(f"{spec}: PATCH protected", rounds.protect),
            Measurement(f"{spec}: DELETE to Deleted, in the trash", rounds.trash),
            Measurement(f"{spec}: undelete to Completed", rounds.undelete),
        )
    ]
    return Findings(measurements, [_limit(measurement) for measurement in measurements])


def _limit(measurement: Measurement) -> Limit:
    return at_most(f"{measurement.name}, median", measurement.median, _LIMIT_MS)
