"""The one error of backups: why a step failed, and whether that says anything about the step."""

from collections.abc import Iterator
from contextlib import contextmanager

from databases.errors import DatabaseFaultError


class BackupFaultError(Exception):
    """A backup could not be written, read, restored, listed or deleted.

    Attributes:
        reason: what is wrong and what to do about it. It holds no credentials, and no text of a library, of a
            program or of a store.
        outage: whether this says nothing about the step: the store or the server is away or too slow, and the
            same step may succeed later.
    """

    def __init__(self, reason: str, *, outage: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.outage = outage


class MissingObjectError(BackupFaultError):
    """The store has no such object."""


class ProgramFailedError(BackupFaultError):
    """pg_dump or pg_restore has ended with an error; if its session alone was ended, it may succeed later."""


@contextmanager
def translate_database_faults() -> Iterator[None]:
    """Turn faults of the ODS server into `BackupFaultError`.

    Raises:
        BackupFaultError: a step on a database failed.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        raise BackupFaultError(fault.reason, outage=fault.outage) from None
