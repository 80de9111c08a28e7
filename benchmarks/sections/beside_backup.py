"""Creates beside a backup: what a backup under way adds to the create of another instance."""

from dataclasses import dataclass, field

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec, give_tables
from embedded.data_folder import StackFile
from registry.instances.status import Template

_MOST = 1.2
_LARGE_MB = 800
_QUICK_MB = 20


@dataclass
class Rounds:
    """Milliseconds until `Completed` of each create, without a backup and beside one."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Create instances while backups are made, and as many after each of them, always with an idle disk."""
    large = TemplateSpec(bench.pick(_LARGE_MB, quick=_QUICK_MB))
    with bench.stacks.cloning(bench.small, large, ODS_SPARES="0") as stack:
        found = run_in_process(_measure, stack, bench.pick(3, quick=1))
    alone = Measurement(f"{bench.small}: create, no backup under way", found.alone)
    beside = Measurement(f"{bench.small}: create beside a backup of {large}", found.beside, bare=alone)
    return Findings(
        [alone, beside], [at_most("create beside a backup / create", beside.ratio or 0, _MOST, "x")]
    )


async def _measure(stack: StackFile, rounds: int) -> Rounds:
    """Measure after a create that does not count; beside a backup, a create counts if it ended first."""
    found = Rounds()
    dsn = stack["postgres"]["master_dsn"]
    async with Client(stack) as client, bare_server(dsn) as server:
        source = await client.create("Backed up", Template.SAMPLE)
        await give_tables(dsn, source.database)
        await client.create("Not measured")
        for number in range(rounds):
            job = await client.request_backup(source.instance)
            while True:
                await server.flush()
                created = await client.create(f"Beside {number} {len(found.beside)}")
                if not await client.is_under_way(job):
                    break
                found.beside.append(created.completed)
            while len(found.alone) < len(found.beside):
                await server.flush()
                found.alone.append((await client.create(f"Alone {len(found.alone)}")).completed)
    return found
