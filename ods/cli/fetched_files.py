"""A file that has its name only once all of it is there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ods.embedded.errors import CommandError

_OWNER_ONLY = 0o600


def require_new(file: Path) -> None:
    """Check that there is no such file.

    Raises:
        CommandError: there is one.
    """
    if os.path.lexists(file):
        raise CommandError(f"{file} is there already. Name another file.")


@contextmanager
def file_in_parts(file: Path) -> Iterator[BinaryIO]:
    """A file with `.part` after its name, which gets its name at the end of the body, and is else removed.

    What a command that was killed has left of it is overwritten. The lock of the file says whether such a
    command still writes it.

    Raises:
        CommandError: another command writes it, the file is there by now, or cannot be written.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _OWNER_ONLY), "r+b") as target:
            _lock(target, part)
            try:
                require_new(file)
                target.truncate()
                yield target
                target.flush()
                os.fsync(target.fileno())
                require_new(file)
                part.rename(file)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        raise CommandError(f"{part} cannot be written: {error.strerror}.") from None


def _lock(target: BinaryIO, part: Path) -> None:
    """Lock the file, which no other command has locked, removed or renamed meanwhile.

    Raises:
        CommandError: one has.
        OSError: the file cannot be locked.
    """
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(target.fileno(), _OWNER_ONLY)
        is_same = part.exists() and os.path.samestat(part.stat(), os.fstat(target.fileno()))
    except BlockingIOError:
        is_same = False
    if not is_same:
        raise CommandError(f"Another command writes {part}. Wait for its end, or name another file.")
