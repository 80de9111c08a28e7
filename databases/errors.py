"""Why a database could not be made or removed, in words a person can act on.

What kind of fault it is, is decided on the SQLSTATE alone, never on an error's text (PostgreSQL, appendix A).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

OBJECT_IN_USE = "55006"
INSUFFICIENT_PRIVILEGE = "42501"

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection that broke is met with; the last one while asyncpg is being told why it was ended."""

_RETRYABLE_CLASSES = ("08", "40", "53", "57P", "58")
_READ_ONLY = "25006"
_CHANGED_MEANWHILE = "XX000"
"""Among others: two changes of one row of a catalogue met ("tuple concurrently updated")."""
_RETRYABLE_STATES = {OBJECT_IN_USE, _READ_ONLY, _CHANGED_MEANWHILE, "55P03", "57014"}


class DatabaseFaultError(Exception):
    """A step on a database failed.

    Attributes:
        reason: what is wrong and what to do about it.
        retryable: whether the same step may succeed later by itself.
    """

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable


class NotOursError(DatabaseFaultError):
    """A database of the wanted name does not carry the instance's mark."""

    def __init__(self, database: str) -> None:
        super().__init__(
            f"A database named '{database}' exists that does not belong to this instance. It was left"
            " untouched. Rename or remove it, then retry."
        )


@contextmanager
def faults_explained(reasons: dict[str, str]) -> Iterator[None]:
    """Turn errors of PostgreSQL and of the connection to it into `DatabaseFaultError`.

    Args:
        reasons: what a SQLSTATE means for the step at hand, in words for the person who must mend it.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _explained(error.sqlstate or "", reasons) from None
    except LOST:
        raise DatabaseFaultError(
            "The PostgreSQL server of the ODS databases cannot be reached.", retryable=True
        ) from None


def _explained(sqlstate: str, reasons: dict[str, str]) -> DatabaseFaultError:
    retryable = sqlstate in _RETRYABLE_STATES or sqlstate.startswith(_RETRYABLE_CLASSES)
    reason = reasons.get(sqlstate) or _general_reason(sqlstate)
    return DatabaseFaultError(reason, retryable=retryable)


def _general_reason(sqlstate: str) -> str:
    if sqlstate == "53100":
        return "The PostgreSQL server has run out of disk space. Free some, then retry."
    if sqlstate == "53300":
        return "The PostgreSQL server has no free connections. Close some, or raise max_connections."
    if sqlstate == _READ_ONLY:
        return "The PostgreSQL server is a standby. Wait until it has taken over, or correct ODS_MASTER_DSN."
    if sqlstate.startswith("28"):
        return "The PostgreSQL server refused the login of ODS_MASTER_DSN. Correct it, then retry."
    if sqlstate.startswith(("08", "57P")):
        return "The PostgreSQL server ended the connection: it is starting, stopping, or closed it."
    return f"PostgreSQL refused the step with SQLSTATE {sqlstate}. Its log tells more."
