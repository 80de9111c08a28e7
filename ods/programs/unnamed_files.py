"""Files for child processes that are gone when this process is, even if that is killed."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def unnamed_file(prefix: str) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file, and a path at which it is found while the body runs.

    Where the system allows it, the file has no name of its own; elsewhere it has one that begins with
    `prefix`, and stays if this process is killed.
    """
    if sys.platform == "linux":
        with tempfile.TemporaryFile() as file:
            yield file, Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(prefix=prefix) as file:
            yield file, Path(file.name)
