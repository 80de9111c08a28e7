"""Copies of an instance: closed against CREATE DATABASE, online against pg_dump and pg_restore."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from benchmarks import dumps
from benchmarks.bare import BareServer, bare_server, strategy_for
from benchmarks.bench import Bench
from benchmarks.load import Client, Created, milliseconds_since
from benchmarks.measurement import Findings, Measurement, at_most
from benchmarks.subprocesses import run_in_process
from benchmarks.templates import TemplateSpec, give_tables
from ods.embedded.data_folder import StackFile
from ods.model.origins import CopyMode
from ods.programs.postgres import client_program

_OVERHEAD_LIMIT_MS = 300
_MOST = 1.1
_RESTORED = "bench_copied"


@dataclass
class Rounds:
    """Milliseconds of each round."""

    bare_closed: list[float] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    bare_online: list[float] = field(default_factory=list)
    online: list[float] = field(default_factory=list)

    @property
    def overhead(self) -> list[float]:
        """Milliseconds that each closed copy took beyond the bare one."""
        return [total - bare for total, bare in zip(self.closed, self.bare_closed, strict=True)]


def run(bench: Bench) -> Findings:
    """Copy one instance by turns; from POST to Completed, and by PostgreSQL's own means."""
    spec = TemplateSpec(bench.pick(80, quick=10))
    with bench.stacks.cloning(spec, bench.small, ODS_SPARES="0") as stack:
        found = run_in_process(_Work(stack, spec).measure, bench.pick(10, quick=1))
    bare_closed = Measurement(f"{spec}: bare copy", found.bare_closed)
    closed = Measurement(f"{spec}: closed copy, POST to Completed", found.closed, bare=bare_closed)
    beyond = Measurement(f"{closed.name}, less the bare copy", found.overhead, bare=bare_closed)
    bare_online = Measurement(f"{spec}: pg_dump | pg_restore", found.bare_online)
    online = Measurement(f"{spec}: online copy, POST to Completed", found.online, bare=bare_online)
    return Findings(
        [bare_closed, closed, beyond, bare_online, online],
        [
            at_most(f"{beyond.name}, median", beyond.median, _OVERHEAD_LIMIT_MS),
            at_most(f"{online.name} / pg_dump | pg_restore", online.ratio or 0, _MOST, "x"),
        ],
    )


@dataclass(frozen=True)
class _Work:
    """The stack, and the template of the instance that is copied."""

    stack: StackFile
    spec: TemplateSpec

    async def measure(self, rounds: int) -> Rounds:
        """Measure after a round that does not count; in every other round, the bare copy comes first."""
        found = Rounds()
        dsn = self.stack["postgres"]["master_dsn"]
        async with Client(self.stack) as client, bare_server(dsn) as server:
            source = await client.create("Copied")
            await give_tables(dsn, source.database)
            for number in range(-1, rounds):
                into = found if number >= 0 else Rounds()
                if number % 2:
                    await self._bare(server, dsn, source, into)
                for mode, times in ((CopyMode.CLOSED, into.closed), (CopyMode.ONLINE, into.online)):
                    await server.flush()
                    copy = await client.copy(f"{mode} {number + 1}", source.instance, mode)
                    times.append(copy.completed)
                    await client.delete(copy.instance)
                if not number % 2:
                    await self._bare(server, dsn, source, into)
        return found

    async def _bare(self, server: BareServer, dsn: str, source: Created, into: Rounds) -> None:
        await server.flush()
        into.bare_closed.append(await server.create(source.database, strategy_for(self.spec)))
        await server.clear()
        await server.flush()
        async with _empty(server) as database:
            started = time.perf_counter()
            addresses = dumps.at(dsn, source.database), dumps.at(dsn, database)
            await asyncio.to_thread(_dump_and_restore, *addresses)
            into.bare_online.append(milliseconds_since(started))


@asynccontextmanager
async def _empty(server: BareServer) -> AsyncIterator[str]:
    database = f"{_RESTORED}_{uuid4().hex}"
    await server.session.execute(f"CREATE DATABASE {database} TEMPLATE template0")
    try:
        yield database
    finally:
        await server.session.execute(f"DROP DATABASE {database} WITH (FORCE)")


def _dump_and_restore(source: str, target: str) -> None:
    dump = (client_program("pg_dump"), "--format=custom", "--compress=0", f"--dbname={source}")
    restore = (client_program("pg_restore"), f"--dbname={target}")
    with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumping:  # noqa: S603 - PostgreSQL's own
        subprocess.run(restore, stdin=dumping.stdout, check=True)  # noqa: S603 - as above
    if dumping.returncode:
        raise RuntimeError("pg_dump has failed.")
