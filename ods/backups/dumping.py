"""pg_dump as a child process: what it writes, as it comes, and how far it is."""

import asyncio
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from ods.backups.channels import Channel, Transform, channel
from ods.backups.client_programs import ClientProgram
from ods.backups.monitoring import Monitor, Progress
from ods.backups.snapshots import Database, Table
from ods.databases.constants import program_name
from ods.programs import process
from ods.programs.postgres import ENDS_WITH_PROGRAM, MONEY_SETTINGS, client_address, client_environment
from ods.programs.precedence import PRECEDENCE
from ods.programs.process import Command

OPTIONS = (
    "--format=custom",
    "--no-owner",
    "--no-privileges",
    # A copy would read the changes meant for the original, or, if it is dropped, end their slot.
    "--no-subscriptions",
    "--verbose",
    "--no-password",
    # The tables are locked already, so it waits only for a session that waits for ours, and for no end.
    "--lock-wait-timeout=10s",
)
_CHUNK_BYTES = 1024 * 1024
_SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        **ENDS_WITH_PROGRAM,
        **MONEY_SETTINGS,
    }
)


@dataclass(frozen=True)
class DumpSource:
    """What is dumped.

    Attributes:
        database: the database.
        label: what it is dumped for, by which `ods.databases.dropping.end_programs` knows pg_dump.
        snapshot: the snapshot that pg_dump reads, of a transaction that stays open.
        tables: those with rows.
        read_only: whether a setting of the database itself makes its sessions read-only.
        encoding: that of the database, in which the texts are dumped, whichever its sessions have.
    """

    database: Database
    label: str
    snapshot: str
    tables: Sequence[Table]
    read_only: bool
    encoding: str


def session_settings(*, read_only: bool) -> Mapping[str, str]:
    """Parameters of the sessions of pg_dump.

    libpq wants a host that takes writes: a database that is read-only would seem to be on none. For other
    databases it must not be told so, or it takes a former primary that an operator has made read-only.
    """
    return {**_SESSION_SETTINGS, **({"default_transaction_read_only": "off"} if read_only else {})}


class Dump:
    """A dump that is being made.

    `size_bytes` is what `chunks` has given so far.
    """

    def __init__(
        self, program: ClientProgram, source: DumpSource, running: Process, flow: Channel, monitor: Monitor
    ) -> None:
        self.version = program.version
        self.size_bytes = 0
        self._hash = sha256()
        self._running = running
        self._flow = flow
        self._monitor = monitor
        self._progress = TableProgress(source.tables)

    @property
    def sha256(self) -> str:
        """Of what `chunks` has given so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The dump, as the transform makes it; if it is not read to its end, pg_dump is ended.

        Raises:
            ProgramFailedError: what was given is no whole dump.
        """
        following = asyncio.create_task(self._follow_messages())
        try:
            async for chunk in _pieces(await self._flow.reader()):
                self._hash.update(chunk)
                self.size_bytes += len(chunk)
                self._monitor.report(Progress(self.size_bytes, self._progress.percent))
                yield chunk
            await following
            self._monitor.require_success("pg_dump", await self._running.wait())
            await self._flow.require_transformed()
        finally:
            with suppress(ProcessLookupError):  # it has ended
                self._running.kill()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow_messages(self) -> None:
        if self._running.stderr is not None:
            await self._progress.follow(self._running.stderr, self._monitor.log)


@asynccontextmanager
async def dumping(
    program: ClientProgram,
    source: DumpSource,
    transform: Transform,
    monitor: Monitor,
) -> AsyncIterator[Dump]:
    """Run pg_dump; at the end of the body it has ended, or is killed. It pauses for steps that go first."""
    dsn = source.database.server.dsn
    arguments = (
        *(program.path, *OPTIONS, f"--snapshot={source.snapshot}", f"--encoding={source.encoding}"),
        f"--dbname={client_address(dsn, source.database.name, program_name('pg_dump', source.label))}",
    )
    command = Command(
        "pg_dump", arguments, client_environment(dsn, session_settings(read_only=source.read_only))
    )
    async with channel(transform) as flow:
        running = await process.start(command, monitor.log, stdout=flow.writing.fileno(), stderr=PIPE)
        flow.writing.close()
        try:
            await process.until_program_runs(running)
            with PRECEDENCE.pausing(running):
                yield Dump(program, source, running, flow, monitor)
        finally:
            if running.returncode is None:
                await process.stop(running, command)


async def _pieces(reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """What is read, in pieces of a size that costs little each."""
    ended = False
    while not ended:
        try:
            piece = await reader.readexactly(_CHUNK_BYTES)
        except asyncio.IncompleteReadError as error:
            piece, ended = error.partial, True
        if piece:
            yield piece


_TABLE = re.compile(rb'dumping contents of table "(.+)"')
_CHUNK_BYTES = 1024 * 1024


class TableProgress:
    """The progress of one pg_dump with `--verbose`."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._sizes = {table.name: table.size_bytes for table in tables}
        self._total = sum(self._sizes.values())
        self._begun: list[str] = []

    @property
    def percent(self) -> int:
        """Of the sizes of all tables, those of the tables that are done."""
        done = sum(self._sizes.get(table, 0) for table in self._begun[:-1])
        return 100 * done // self._total if self._total else 0

    async def follow(self, messages: asyncio.StreamReader, log: Path) -> None:
        """Append what pg_dump says to `log`, and note which table it has come to."""
        rest = b""
        with log.open("ab") as file:
            while piece := await messages.read(_CHUNK_BYTES):
                file.write(piece)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if found := _TABLE.search(line):
                        self._begun.append(found[1].decode(errors="replace"))
