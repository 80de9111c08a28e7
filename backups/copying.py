"""Copying what a database holds at one moment into an empty one, while the first goes on being used.

pg_dump writes straight into pg_restore: nothing is stored on the way, or passes through this process.
"""

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from backups import dumping, restoring
from backups.client_programs import find_program, major
from backups.errors import BackupFaultError, translate_database_faults
from backups.monitoring import Monitor
from backups.snapshots import Database, require_alive, snapshot
from databases.statements import fetch_value
from programs import process
from programs.postgres import LOAD_SETTINGS, client_address, client_environment
from programs.process import Command


async def copy_contents(source: Database, target: Database, monitor: Monitor) -> None:
    """Fill the empty database `target` with what `source` holds now.

    If this raises or is cancelled, `target` may hold a part of it: drop it. Both programs have ended then.

    Args:
        source: a database, which goes on being used.
        target: an empty one.
        monitor: where the messages of both programs go.

    Raises:
        BackupFaultError: a program is missing, older than the server, or has failed; a server is away.
    """
    with translate_database_faults():
        async with snapshot(source) as opened:
            exported = await fetch_value(opened.session, "SELECT pg_export_snapshot()")
            version = opened.session.get_server_version()
            dump = await _command(
                "pg_dump",
                f"{version.major}.{version.minor}",
                source,
                (*dumping.OPTIONS, "--compress=0", f"--snapshot={exported}"),
                dumping.SESSION_SETTINGS,
            )
            restore = await _command(
                "pg_restore",
                f"{version.major}.{version.minor}",
                target,
                restoring.OPTIONS,
                LOAD_SETTINGS,
            )
            if failed := await _piped(dump, restore, monitor):
                await require_alive(opened.session)
                raise BackupFaultError(f"{failed} has failed; {monitor.log} says why.")


async def _command(
    name: str, server: str, database: Database, options: tuple[str, ...], settings: Mapping[str, str]
) -> Command:
    program = await find_program(name, major(server))
    program.require_suits(server)
    dsn = database.server.dsn
    address = f"--dbname={client_address(dsn, database.name)}"
    return Command(name, (program.path, *options, address), client_environment(dsn, settings))


async def _piped(first: Command, second: Command, monitor: Monitor) -> str | None:
    """Run two programs, the second of which reads what the first writes; the name of one that has failed."""
    async with AsyncExitStack() as stack:
        reading, writing = os.pipe()
        try:
            writer = await stack.enter_async_context(_running(first, monitor, stdout=writing))
            reader = await stack.enter_async_context(_running(second, monitor, stdin=reading))
        finally:  # each end is the program's alone
            os.close(reading)
            os.close(writing)
        written, read = await asyncio.gather(writer.wait(), reader.wait())
    # If the second ends too early, the first cannot write any more.
    return second.name if read else first.name if written else None


@asynccontextmanager
async def _running(command: Command, monitor: Monitor, **ends: int) -> AsyncIterator[Process]:
    """The program; at the end of the body it has ended, or is killed."""
    running = await process.start(command, monitor.log, **ends)
    try:
        yield running
    finally:
        if running.returncode is None:
            await process.stop(running, command)
