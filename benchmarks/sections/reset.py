"""A reset against a create of the same template, alternating, without spares."""

from dataclasses import dataclass, field

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec
from ods.embedded.data_folder import StackFile
from ods.model.operations import Template

_MOST = 1.2


@dataclass
class Rounds:
    """Milliseconds until `Completed` of each round with one template."""

    created: list[float] = field(default_factory=list)
    reset: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Create instances and reset them: a reset also ends sessions and exchanges the names."""
    rounds = {bench.small: 20, bench.medium: 10}
    measurements, limits = [], []
    with bench.stacks.cloning(*rounds, ODS_SPARES="0") as stack:
        for template, (spec, times) in zip(Template, rounds.items(), strict=True):
            found = run_in_process(_Work(stack, spec, template).measure, bench.pick(times, quick=2))
            create = Measurement(f"{spec}: create", found.created)
            reset = Measurement(f"{spec}: reset", found.reset, bare=create)
            measurements += [create, reset]
            limits.append(at_most(f"{spec}: reset / create", reset.ratio or 0, _MOST, "x"))
    return Findings(measurements, limits)


@dataclass(frozen=True)
class _Work:
    """The stack, and the template to create instances of."""

    stack: StackFile
    spec: TemplateSpec
    template: Template

    async def measure(self, rounds: int) -> Rounds:
        """Measure after a round that does not count; in every other round, the reset comes first."""
        found = Rounds()
        async with (
            Client(self.stack) as client,
            bare_server(self.stack["postgres"]["master_dsn"]) as server,
        ):
            first = await client.create(f"Reset {self.spec.megabytes}", self.template)
            for number in range(-1, rounds):
                into = found if number >= 0 else Rounds()
                for reset in (number % 2 == 0, number % 2 == 1):
                    await server.flush()
                    if reset:
                        into.reset.append(await client.reset(first.instance))
                    else:
                        name = f"Fresh {self.spec.megabytes} {number + 1}"
                        into.created.append((await client.create(name, self.template)).completed)
        return found
