"""The one error of backups: why a step failed, and whether that says anything about the step."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from ods.databases.errors import DatabaseFaultError


class BackupFaultError(Exception):
    """A backup could not be written, read, restored, listed or deleted.

    Attributes:
        reason: what is wrong and what to do about it. It holds no credentials, and no text of a library, of a
            program or of a store.
        retryable: whether the same step may succeed later by itself.
        outage: whether this says nothing about the step: the store or the server is away or too slow, and the
            same step may succeed later.
    """

    def __init__(self, reason: str, *, retryable: bool = False, outage: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable or outage
        self.outage = outage

    @property
    def is_verdict(self) -> bool:
        """Whether it says something of the backup that was read, and not of what is around it."""
        return not self.retryable


class MissingObjectError(BackupFaultError):
    """The store has no such object."""


class StoreRefusedError(BackupFaultError):
    """The store does not let this service in."""

    @property
    def is_verdict(self) -> bool:
        """No: the credentials may be given again."""
        return False


class RestoreRefusedError(BackupFaultError):
    """No login restores, and the settings do not accept that the service's role does."""

    @property
    def is_verdict(self) -> bool:
        """No: nothing of a backup was read."""
        return False


class StoreFullError(BackupFaultError):
    """The store has no room."""


class UnsuitableProgramError(BackupFaultError):
    """pg_dump or pg_restore is missing, or does not suit the server or the backup."""


class ProgramFailedError(BackupFaultError):
    """pg_dump or pg_restore has ended with an error; if its session alone was ended, it may succeed later."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, retryable=True)


@contextmanager
def translate_database_faults() -> Iterator[None]:
    """Turn faults of the ODS server into `BackupFaultError`.

    Raises:
        BackupFaultError: a step on a database failed.
    """
    try:
        yield
    except DatabaseFaultError as fault:
        raise BackupFaultError(fault.reason, retryable=fault.retryable, outage=fault.outage) from None


@asynccontextmanager
async def explained_by(*proofs: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """If the body fails, and what it needs of the database is not as it must be, that is why.

    Each of `proofs` raises a `DatabaseFaultError` if something is not; the first one that tells why counts.

    Raises:
        BackupFaultError: what is not as it must be may be so later.
        ProgramFailedError: a program has failed, and all is as it must be.
        DatabaseFaultError: a statement has failed, and so has the server, or all is as it must be.
    """
    try:
        yield
    except (ProgramFailedError, DatabaseFaultError) as failure:
        for prove in () if failure.outage else proofs:
            try:
                await prove()
            except DatabaseFaultError as fault:
                if fault.retryable:
                    raise BackupFaultError(fault.reason, retryable=True, outage=fault.outage) from None
        raise
