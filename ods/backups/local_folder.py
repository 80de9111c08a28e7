"""What a folder needs beyond object storage: it is for its owner alone, and made durable here."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

_OWNER_ONLY = 0o700
_TRIES = 10
"""How often `remove`, in another process, may remove a folder above that is empty before it is used."""


def prepare(root: Path, file: Path) -> None:
    """Make the folders between `root` and `file`, which the account of this process alone may enter."""
    folders = [it for it in file.parents if it.is_relative_to(root) and it != root]
    for left in reversed(range(_TRIES)):
        try:
            for folder in reversed(folders):
                folder.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        except FileNotFoundError:
            if not left or not root.is_dir():
                raise
        else:
            return


def read_piece(file: Path, start: int, size: int) -> bytes:
    """So many bytes of a file from `start` on; fewer at its end."""
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(size)


def make_durable(root: Path, file: Path) -> None:
    """Have the disk write the file and the folders that lead to it from `root`."""
    for path in (file, *(it for it in file.parents if it.is_relative_to(root))):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(root: Path, folder: Path) -> None:
    """Remove the folder with all that is in it, and those above it that are empty then, up to `root`."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    for above in folder.parents:
        if above == root or not above.is_relative_to(root):
            return
        try:
            above.rmdir()
        except OSError:  # it is not empty
            return
