"""Copying what a database holds at one moment into an empty one, while the first goes on being used.

pg_dump writes straight into pg_restore: nothing is stored on the way, or passes through this process.
"""

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from ods.backups import dumping, restoring
from ods.backups.client_programs import find_program, major
from ods.backups.dumping import TableProgress
from ods.backups.errors import explained_by, translate_database_faults
from ods.backups.forms import read_form, require_same_form
from ods.backups.monitoring import Monitor, Progress
from ods.backups.snapshots import Database, snapshot
from ods.databases.constants import program_name
from ods.databases.statements import fetch_value
from ods.programs import process
from ods.programs.postgres import client_address, client_environment
from ods.programs.process import Command

_REPORT_SECONDS = 0.5
_WITHOUT_OWNERS = {"--no-owner"}


async def copy_contents(
    source: Database,
    target: Database,
    monitor: Monitor,
    *,
    with_owners: bool = False,
) -> None:
    """Fill the empty database `target` with what `source` holds now.

    If this raises or is cancelled, `target` may hold a part of it: drop it. Both programs have ended then.
    The name of `target` is their label, by which `ods.databases.dropping.end_programs` knows them.

    With `with_owners`, what it holds belongs to the same roles afterwards, unless a login of its own
    restores.

    Raises:
        BackupFaultError: a program is missing, or older than the server; a server is away; the form of
            `source` has changed meanwhile.
    """
    # The login that restores may give nothing to another role.
    keeps_owners = with_owners and target.server.restore_login is None
    left_out = _WITHOUT_OWNERS if keeps_owners else set()
    with translate_database_faults():
        async with snapshot(source) as opened:
            async with opened.session() as session:
                exported = await fetch_value(session, "SELECT pg_export_snapshot()")
                version = session.get_server_version()
                same_form = partial(require_same_form, source, await read_form(session))
            dump = await _command(
                "pg_dump",
                f"{version.major}.{version.minor}",
                source.server.dsn,
                source.name,
                target.name,
                (
                    *_without(left_out, dumping.OPTIONS),
                    *("--compress=0", f"--snapshot={exported}", f"--encoding={opened.encoding}"),
                ),
                dumping.session_settings(read_only=opened.read_only),
            )
            async with restoring.login_lent(target) as dsn:
                restore = await _command(
                    "pg_restore",
                    f"{version.major}.{version.minor}",
                    dsn,
                    target.name,
                    target.name,
                    _without(left_out, restoring.OPTIONS),
                    restoring.SESSION_SETTINGS,
                )
                can_write = partial(restoring.require_writes, target, dsn)
                progress = TableProgress(opened.tables)
                reporting = asyncio.create_task(_report(progress, monitor))
                try:
                    async with explained_by(opened.require_open, same_form, can_write):
                        await _pipe(dump, restore, monitor, progress)
                    await same_form()
                finally:
                    reporting.cancel()
                    await asyncio.gather(reporting, return_exceptions=True)


def _without(left_out: set[str], options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(option for option in options if option not in left_out)


async def _report(progress: TableProgress, monitor: Monitor) -> None:
    while True:
        monitor.report(Progress(0, progress.percent))
        await asyncio.sleep(_REPORT_SECONDS)


async def _command(  # noqa: PLR0913, PLR0917 - the parts of a command
    name: str,
    server: str,
    dsn: str,
    database: str,
    label: str,
    options: tuple[str, ...],
    settings: Mapping[str, str],
) -> Command:
    program = await find_program(name, major(server))
    program.require_suits(server)
    address = f"--dbname={client_address(dsn, database, program_name(name, label))}"
    return Command(name, (program.path, *options, address), client_environment(dsn, settings))


async def _pipe(first: Command, second: Command, monitor: Monitor, progress: TableProgress) -> None:
    """Run pg_dump and what reads what it writes."""
    async with AsyncExitStack() as stack:
        reading, writing = os.pipe()
        try:
            writer = await stack.enter_async_context(_running(first, monitor, stdout=writing, stderr=PIPE))
            reader = await stack.enter_async_context(_running(second, monitor, stdin=reading))
        finally:  # each end is the program's alone
            os.close(reading)
            os.close(writing)
        following = [progress.follow(writer.stderr, monitor.log)] if writer.stderr else []
        written, read, *_ = await asyncio.gather(writer.wait(), reader.wait(), *following)
    # If the second ends too early, the first cannot write any more.
    monitor.require_success(second.name, read)
    monitor.require_success(first.name, written)


@asynccontextmanager
async def _running(command: Command, monitor: Monitor, **ends: Any) -> AsyncIterator[Process]:  # noqa: ANN401 - as of `process.start`
    """The program; at the end of the body it has ended, or is killed."""
    running = await process.start(command, monitor.log, **ends)
    try:
        yield running
    finally:
        if running.returncode is None:
            await process.stop(running, command)
