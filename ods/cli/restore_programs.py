"""pg_restore and psql as child processes; the password is in their environment, not among the arguments."""

import asyncio
import os
import secrets
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import assert_never

from ods.cli.dump_files import Dump, DumpForm, script_extensions, sql_extensions, sql_lines
from ods.embedded.errors import CommandError
from ods.programs import process
from ods.programs.postgres import (
    LOAD_SETTINGS,
    ProgramMissingError,
    client_address,
    client_environment,
    client_program,
    program_environment,
)
from ods.programs.private_logs import PrivateLog
from ods.programs.process import Command

_SEVERAL_JOBS = {"max_parallel_maintenance_workers": "0"}
"""More processes than jobs, to build each index: with both, they are in each other's way."""
_WATCH_SECONDS = 0.5
_CHUNK_BYTES = 1 << 20


async def needed_extensions(dump: Dump) -> Collection[str]:
    """The extensions that a dump creates.

    Raises:
        CommandError: there is no program to read it, it cannot be read, or reaches beyond its database.
    """
    match dump.form:
        case DumpForm.SQL:
            _program("psql")
            return await asyncio.to_thread(sql_extensions, dump)
        case DumpForm.ARCHIVE:
            # The script of an archive is short without the data.
            reading = await asyncio.create_subprocess_exec(
                *(_program("pg_restore"), "--schema-only", "--file", "-", str(dump.path)),
                stdout=PIPE,
                stderr=PIPE,
                env=program_environment(),
            )
            script, _ = await reading.communicate()
            if reading.returncode:
                raise CommandError(
                    "pg_restore cannot read the archive: it is damaged, or a newer pg_dump made it. Nothing"
                    " was done."
                )
            return await asyncio.to_thread(script_extensions, BytesIO(script))
        case _:
            assert_never(dump.form)


@dataclass(frozen=True)
class Destination:
    """What is filled from a dump.

    Attributes:
        dsn: an address of the server, with the login.
        database: the database, which is empty.
        major: the server's major version: a newer pg_restore uses settings that it may not know.
        jobs: how many sessions load an archive at once.
        log: where the program's messages go.
    """

    dsn: str = field(repr=False)
    database: str
    major: int
    jobs: int
    log: PrivateLog

    @property
    def address(self) -> str:
        """The address of the database for libpq, without the password."""
        return client_address(self.dsn, self.database)


async def restore(dump: Dump, destination: Destination, watch: Callable[[], Awaitable[None]]) -> None:
    """Fill a database from the dump.

    Args:
        dump: what it is filled from.
        destination: what is filled.
        watch: awaited twice a second; if it raises, the program is ended.

    Raises:
        CommandError: the program has failed.
    """
    log = destination.log
    arguments = _arguments(dump, destination)
    settings = dict(LOAD_SETTINGS) | (_SEVERAL_JOBS if destination.jobs > 1 else {})
    command = Command(Path(arguments[0]).name, arguments, client_environment(destination.dsn, settings))
    running = await process.start(command, log.path, stdin=PIPE if dump.form is DumpForm.SQL else None)
    feeding = asyncio.create_task(_feed(running, dump))
    try:
        while running.returncode is None:
            await watch()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running.wait()), _WATCH_SECONDS)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        if running.returncode is None:
            await process.stop(running, command)
    if not feeding.cancelled():
        feeding.result()
    if running.returncode:
        raise CommandError(f"{command.name} has failed; {log.kept} says why. The template is as it was.")


async def _feed(running: Process, dump: Dump) -> None:
    """Write an SQL file to psql, which is told to obey no commands of its own in it.

    Raises:
        CommandError: the file cannot be read; psql is ended, so that it takes what there is for no whole.
    """
    if running.stdin is None:
        return
    try:
        for chunk in _chunks(dump):
            running.stdin.write(chunk)
            await running.stdin.drain()
        running.stdin.close()
    except ConnectionError:
        pass  # it has ended, and its log says why
    except CommandError:
        running.kill()
        raise


def _chunks(dump: Dump) -> Iterator[bytes]:
    key = secrets.token_hex(16).encode()
    chunk = bytearray(b"\\restrict %s\n" % key)
    for line in sql_lines(dump):
        chunk += line
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)
    yield b"\n\\unrestrict %s\n" % key


def _program(name: str, major: int | None = None) -> str:
    """The path of a program of PostgreSQL, of that major version if it is installed, or else the newest.

    Raises:
        CommandError: there is none.
    """
    try:
        return client_program(name, major)
    except ProgramMissingError as missing:
        raise CommandError(str(missing)) from None


def _arguments(dump: Dump, destination: Destination) -> tuple[str, ...]:
    to = ("--dbname", destination.address)
    match dump.form:
        case DumpForm.ARCHIVE:
            options = ("--no-owner", "--exit-on-error", "--jobs", str(destination.jobs))
            return (_program("pg_restore", destination.major), *options, *to, str(dump.path))
        case DumpForm.SQL:
            quiet = ("--no-psqlrc", "--quiet", "--output", os.devnull)
            return (_program("psql"), *quiet, "--set", "ON_ERROR_STOP=1", *to)
        case _:
            assert_never(dump.form)
