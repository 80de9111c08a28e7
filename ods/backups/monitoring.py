"""What the caller of a backup or restore is told while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ods.backups.errors import ProgramFailedError
from ods.programs.private_logs import private_log


@dataclass(frozen=True)
class Progress:
    """How far a backup or a restore is.

    Attributes:
        bytes: that were stored, or read from the store; none of what is stored nowhere.
        percent: of the sizes of the tables, or of the stored bytes.
    """

    bytes: int
    percent: int


def _ignore(_: Progress) -> None:
    pass


@dataclass(frozen=True)
class Monitor:
    """Where messages and progress go.

    Attributes:
        log: the file that the messages of pg_dump and pg_restore are appended to, for the operator alone:
            they may quote rows.
        report: called with each piece that was stored or read.
        kept: the file that the operator finds after a failure; None if it is `log`.
    """

    log: Path
    report: Callable[[Progress], None] = _ignore
    kept: Path | None = None

    def require_success(self, program: str, code: int | None) -> None:
        """Check with which code a program that has ended did so."""
        if code:
            raise ProgramFailedError(f"{program} has failed; {self.kept or self.log} says why.")


@contextmanager
def program_log() -> Iterator[Monitor]:
    """A monitor with a file of its own, which is kept if a failure names it."""
    with private_log("ods-copy-") as log:
        yield Monitor(log.path, kept=log.kept)
