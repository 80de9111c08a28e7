"""Each operation of an instance's life, on a template of as many tables as that of Ed-Fi has."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client, milliseconds_since
from benchmarks.measurement import Findings, Measurement
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec, give_tables
from ods.embedded.data_folder import StackFile
from ods.model.origins import CopyMode

_Result = TypeVar("_Result")

_MEGABYTES = 40
_TABLES = 1000
_QUICK_TABLES = 100


def run(bench: Bench) -> Findings:
    """Lead instances through their whole life, one after another."""
    spec = TemplateSpec(_MEGABYTES, bench.pick(_TABLES, quick=_QUICK_TABLES))
    with bench.stacks.cloning(spec, bench.small, ODS_SPARES="0") as stack:
        found = run_in_process(_measure, stack, bench.pick(5, quick=1))
    return Findings([Measurement(f"{spec}: {name}", times) for name, times in found.items()], [])


async def _measure(stack: StackFile, rounds: int) -> Mapping[str, list[float]]:
    """Milliseconds of each operation, until its job is done; the first round is not counted."""
    found: dict[str, list[float]] = defaultdict(list)
    dsn = stack["postgres"]["master_dsn"]
    async with Client(stack) as client, bare_server(dsn) as server:

        async def timed(name: str, work: Awaitable[_Result]) -> _Result:
            await server.flush()
            started = time.perf_counter()
            result = await work
            found[name].append(milliseconds_since(started))
            return result

        for number in range(rounds + 1):
            if number == 1:
                found.clear()
            made = await timed("create", client.create(f"Operations {number}"))
            await give_tables(dsn, made.database)
            for mode in CopyMode:
                copy = await timed(f"{mode} copy", client.copy(f"{mode} {number}", made.instance, mode))
                await client.delete(copy.instance)
            backup = await timed("backup", client.back_up(made.instance))
            restored = await timed("restore of the backup", client.restore(f"Restored {number}", backup))
            await client.delete(restored)
            await timed("snapshot", client.snapshot(made.instance))
            await timed("reset", client.reset(made.instance))
            await timed("undo of the reset", client.undo_reset(made.instance))
            await timed("delete, to the trash", client.delete(made.instance))
            await timed("undelete", client.undelete(made.instance))
            await timed("delete for good", client.purge(made.instance))
    return found
