"""Creates beside a backup: what it adds to the create of another instance, and what pg_dump alone adds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks import dumps
from benchmarks.bare import bare_server
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec, give_tables
from ods.embedded.data_folder import StackFile
from ods.model.operations import Template
from ods.programs.postgres import client_program

_MOST = 1.2
_LARGE_MB = 800
_QUICK_MB = 20
_AT_MOST = 60
"""Creates of each kind in a round."""


@dataclass
class Rounds:
    """Milliseconds until `Completed` of each create: alone, beside a backup, and beside bare pg_dump."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    beside_bare: list[float] = field(default_factory=list)


def run(bench: Bench) -> Findings:
    """Create instances while backups are made, while pg_dump runs, and while neither does."""
    large = TemplateSpec(bench.pick(_LARGE_MB, quick=_QUICK_MB))
    with bench.stacks.cloning(bench.small, large, ODS_SPARES="0") as stack:
        found = run_in_process(_measure, stack, bench.pick(3, quick=1))
    alone = Measurement(f"{bench.small}: create, no backup under way", found.alone)
    bare = Measurement(f"{bench.small}: create beside pg_dump of {large}", found.beside_bare, bare=alone)
    beside = Measurement(f"{bench.small}: create beside a backup of {large}", found.beside, bare=alone)
    return Findings(
        [alone, bare, beside],
        [at_most("create beside a backup / create with none under way", beside.ratio or 0, _MOST, "x")],
    )


async def _measure(stack: StackFile, rounds: int) -> Rounds:
    """Measure after a create that does not count; beside a dump, a create counts if it ended first."""
    found = Rounds()
    dsn = stack["postgres"]["master_dsn"]
    async with Client(stack) as client, bare_server(dsn) as server:

        async def create_while(is_under_way: Callable[[], Awaitable[bool]], name: str) -> list[float]:
            took: list[float] = []
            while len(took) < _AT_MOST:
                await server.flush()
                created = await client.create(f"{name} {len(took)}")
                if not await is_under_way():
                    break
                took.append(created.completed)
            return took

        source = await client.create("Backed up", Template.SAMPLE)
        await give_tables(dsn, source.database)
        await client.create("Not measured")
        for number in range(rounds):
            job = await client.request_backup(source.instance)
            found.beside += await create_while(partial(client.is_under_way, job), f"Beside {number}")
            await client.completed(job)
            async with _dumping(dumps.at(dsn, source.database)) as is_dumping:
                found.beside_bare += await create_while(is_dumping, f"Bare {number}")
            found.alone += await create_while(_always, f"Alone {number}")
    return found


async def _always() -> bool:
    return True


@asynccontextmanager
async def _dumping(source: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Dump the database to a file by pg_dump, and tell whether that goes on."""
    with TemporaryDirectory() as folder:
        arguments = ("--format=custom", f"--file={folder}/dump", f"--dbname={source}")
        program = await asyncio.create_subprocess_exec(client_program("pg_dump"), *arguments)

        async def goes_on() -> bool:
            return program.returncode is None

        try:
            yield goes_on
        finally:
            if program.returncode is None:
                program.kill()
            await program.wait()
