"""Messages of programs, which may quote rows: for the operator alone, and kept only of what has failed."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ods.programs.unnamed_files import unnamed_file

_MOST_BYTES = 1024 * 1024
_OWNER_ONLY = 0o600


@dataclass(frozen=True)
class PrivateLog:
    """Where messages go.

    Attributes:
        path: of the file that messages are appended to.
        kept: of the file that there is in the end, if a failure names it.
    """

    path: Path
    kept: Path


@contextmanager
def private_log(prefix: str) -> Iterator[PrivateLog]:
    """A file for messages, the end of which is kept if the body fails with an error that names it.

    Args:
        prefix: begins the name of the file that is kept, in the folder for temporary files.
    """
    with unnamed_file(prefix) as (_, path):
        log = PrivateLog(path, Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(8)}.log")
        try:
            yield log
        except Exception as error:
            if str(log.kept) in str(error):
                _keep(log)
            raise


def _keep(log: PrivateLog) -> None:
    with log.path.open("rb") as messages:
        messages.seek(max(0, messages.seek(0, os.SEEK_END) - _MOST_BYTES))
        end = messages.read()
    descriptor = os.open(log.kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as kept:
        kept.write(end)
