"""pg_dump and pg_restore: which there is, and whether it is new enough."""

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass

from ods.backups.errors import UnsuitableProgramError
from ods.programs.postgres import ProgramMissingError, client_program, program_environment

_NEEDS_NEWER_SERVER = 17
"""Since this version, pg_restore sets a parameter (`transaction_timeout`) that older servers do not know."""
_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)(\S*)")


@dataclass(frozen=True)
class ClientProgram:
    """A client program of PostgreSQL."""

    path: str
    version: str

    def require_suits(self, server: str) -> None:
        """Check that what the program writes and reads suits a server of this version."""
        if major(self.version) < major(server):
            raise UnsuitableProgramError(
                f"{self.path} is of PostgreSQL {self.version}, older than the server: {server}. Install the"
                f" client programs of PostgreSQL {major(server)} or newer."
            )
        if major(server) < _NEEDS_NEWER_SERVER <= major(self.version):
            raise UnsuitableProgramError(
                f"What {self.path} of PostgreSQL {self.version} writes cannot be restored on the server,"
                f" which is older: {server}. Install the client programs of PostgreSQL {major(server)}."
            )

    def require_reads(self, dump: str) -> None:
        """Check that the program reads what a pg_dump of this version has written."""
        if major(self.version) < major(dump):
            raise UnsuitableProgramError(
                f"{self.path} is of PostgreSQL {self.version}, older than the pg_dump that made the backup:"
                f" {dump}. Install the client programs of PostgreSQL {major(dump)} or newer."
            )


async def find_program(name: str, preferred: int) -> ClientProgram:
    """The program of this name: of the preferred major version if it is installed, or else of the newest.

    Raises:
        UnsuitableProgramError: there is none, or it does not say its version.
    """
    try:
        path = client_program(name, preferred)
    except ProgramMissingError as missing:
        raise UnsuitableProgramError(str(missing)) from None
    asked = await asyncio.create_subprocess_exec(
        path, "--version", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=program_environment()
    )
    answer, _ = await asked.communicate()
    if (found := _VERSION.search(answer)) is None:
        raise UnsuitableProgramError(f"{path} does not say which version of PostgreSQL it is of.")
    return ClientProgram(path, (found[1] + found[2]).decode())


def major(version: str) -> int:
    """The major version, by which servers and programs suit one another: 18 of `18.6` and of `18beta1`."""
    return int(re.split(r"\D", version, maxsplit=1)[0])
