"""What the caller of a backup or restore is told while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a backup or a restore is.

    Attributes:
        bytes: that were stored, or read from the store.
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
    """

    log: Path
    report: Callable[[Progress], None] = _ignore
