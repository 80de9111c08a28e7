"""pg_dump and pg_restore: which there is, and whether it is new enough."""

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass

from backups.errors import BackupFaultError
from programs.postgres import ProgramMissingError, client_program

_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)(\S*)")


@dataclass(frozen=True)
class ClientProgram:
    """A client program of PostgreSQL.

    Attributes:
        path: where it is.
        version: such as `18.6`.
    """

    path: str
    version: str

    def require(self, version: str, what: str) -> None:
        """Check that the program is not older.

        Args:
            version: of PostgreSQL, at least.
            what: what has this version, for the reason.

        Raises:
            BackupFaultError: it is older.
        """
        if major(self.version) < major(version):
            raise BackupFaultError(
                f"{self.path} is of PostgreSQL {self.version}, older than {what}: {version}. Install the"
                f" client programs of PostgreSQL {major(version)} or newer."
            )


async def find_program(name: str) -> ClientProgram:
    """The program of this name.

    Raises:
        BackupFaultError: there is none, or it does not say its version.
    """
    try:
        path = client_program(name)
    except ProgramMissingError as missing:
        raise BackupFaultError(str(missing)) from None
    asked = await asyncio.create_subprocess_exec(
        path, "--version", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )
    answer, _ = await asked.communicate()
    if (found := _VERSION.search(answer)) is None:
        raise BackupFaultError(f"{path} does not say which version of PostgreSQL it is of.")
    return ClientProgram(path, (found[1] + found[2]).decode())


def major(version: str) -> int:
    """The major version, by which servers and programs suit one another: 18 of `18.6` and of `18beta1`."""
    return int(re.split(r"\D", version, maxsplit=1)[0])
