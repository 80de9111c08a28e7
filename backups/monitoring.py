"""What the caller of a backup or restore is told while it runs."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backups.errors import BackupFaultError


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
    """

    log: Path
    report: Callable[[Progress], None] = _ignore


@contextmanager
def program_log() -> Iterator[Monitor]:
    """A monitor with a file of its own, which is kept if a failure names it."""
    folder = Path(tempfile.mkdtemp(prefix="ods-copy-"))
    log, is_needed = folder / "messages.log", False
    try:
        yield Monitor(log)
    except BackupFaultError as fault:
        is_needed = str(log) in fault.reason
        raise
    finally:
        if not is_needed:
            shutil.rmtree(folder, ignore_errors=True)
