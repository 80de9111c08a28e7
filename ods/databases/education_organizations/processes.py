"""Education organizations of ODS databases, read by processes of the `program` beside this module."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ods
from ods.databases.education_organizations.program import SECONDS
from ods.databases.education_organizations.reading import Address, UnreadableError
from ods.programs import process
from ods.programs.process import Command

_PROGRAM = "ods.databases.education_organizations.program"
_ROOT = Path(ods.__file__).parents[1]
_GRACE_SECONDS = 5
_TRUST = ("HOME", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCERT", "PGSSLKEY")
"""Variables that lead to the certificates of servers, and to the worker's own."""
_NICENESS = 10
"""Jobs come first: a server that sends without end takes only what they leave of the processors."""
_ENDED = "the process that reads it ended without an answer: it had no memory or no time left"


class ReadingProcesses:
    """Has databases read, each by a process of its own."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    async def read(self, address: Address, allowed: str | None) -> Sequence[Sequence[Any]]:
        """The education organizations of a database: id, name, short name, discriminator, id of the parent.

        `allowed` says which servers it may lead to, as of `AllowedHosts`; None if it names our own.
        """
        request = json.dumps({"address": asdict(address), "allowed": allowed}).encode() + b"\n"
        try:
            answer: Mapping[str, Any] = json.loads(await self._asked(request))
        except (OSError, ValueError):  # among them TimeoutError
            raise UnreadableError(_ENDED) from None
        if "fault" in answer:
            raise UnreadableError(answer["fault"])
        organizations: Sequence[Sequence[Any]] = answer["organizations"]
        return organizations

    async def _asked(self, request: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            writer.write(request)
            async with asyncio.timeout(SECONDS + _GRACE_SECONDS):
                return await reader.read()
        finally:
            writer.close()  # the process ends with it


@asynccontextmanager
async def reading_processes() -> AsyncIterator[ReadingProcesses]:
    """Run the program during the body."""
    arguments = (sys.executable, "-S", "-P", "-m", _PROGRAM)
    command = Command("reading", arguments, _environment(), niceness=_NICENESS)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            running = await process.start(command, Path(os.devnull), stdin=theirs.fileno())
        try:
            yield ReadingProcesses(ours)
        finally:
            await process.stop(running, command)


def _environment() -> Mapping[str, str]:
    """Only what the program needs: no setting, secret or login of this process."""
    inherited = {name: os.environ[name] for name in _TRUST if name in os.environ}
    return {**inherited, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])}
