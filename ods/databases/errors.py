"""Errors of the ODS server, translated: why a step on a database failed, and what the operator can do.

The SQLSTATE alone decides which kind of fault it is, never an error's text.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import asyncpg

from ods.databases.constants import (
    DISK_FULL,
    INSUFFICIENT_PRIVILEGE,
    INTERNAL_ERROR,
    LOCK_NOT_AVAILABLE,
    OBJECT_IN_USE,
    QUERY_CANCELED,
)
from ods.registry.storage.connecting import READ_ONLY

HOW_TO_RECOVER = "`ods recover` shows which database the instance has had last, and brings both in step."
"""What the operator can do where registry and server do not agree on an instance's database."""

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises when a connection has broken; the last one while it reads why the server ended it."""

_CONNECTION_FAILURE = "08006"
_OUTAGE_CLASSES = ("08", "28", "53", "57P")
_OUTAGE_STATES = {READ_ONLY, LOCK_NOT_AVAILABLE}
_RETRYABLE_CLASSES = ("40", "58")
_RETRYABLE_STATES = {OBJECT_IN_USE, INTERNAL_ERROR, QUERY_CANCELED}


class DatabaseFaultError(Exception):
    """A step on a database failed.

    Attributes:
        retryable: whether the same step may succeed later by itself.
        outage: whether the server is away, full, locked, or read-only, which says nothing about the step. The
            job waits for the end of the outage, which uses up none of its attempts.
        sqlstate: what PostgreSQL answered, or would have if the connection had lasted; None if neither.
    """

    def __init__(
        self, reason: str, *, retryable: bool = False, outage: bool = False, sqlstate: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable or outage
        self.outage = outage
        self.sqlstate = sqlstate


class NotOursError(DatabaseFaultError):
    """A database of the wanted name does not carry the instance's mark.

    Args:
        registered_for: the OdsInstanceId of the instance whose database has that name by the registry: then
            it may be the instance's own, without its comment. None if it is in the way of another one.
        in_trash: whether it has the name of the database that the instance has in the trash.
    """

    def __init__(self, database: str, *, registered_for: int | None = None, in_trash: bool = False) -> None:
        if in_trash:
            words = (
                " by its comment, but has the name of the one that the instance has in the trash. It was left"
                " untouched. `ods drift` tells which comment it should have: write that if it is the"
                " instance's own, as one that was restored without its comment, then try again."
            )
        elif registered_for is None:
            words = (
                ". It was left untouched: it may be that of another tenant's instance. Request it under"
                " another name; or, if you know that nothing uses that database, rename it, then retry."
            )
        else:
            words = (
                " by its comment, but has the name of the instance's by the registry. It was left untouched."
                " If it is the instance's own, as one that an Admin API has made, or that was restored"
                f" without its comment, hand it over: `ods instance adopt {registered_for} --database"
                f" {database}`. Otherwise rename it; do not remove what may be in use. Then retry."
            )
        super().__init__(f"A database named '{database}' exists that does not belong to this instance{words}")


class NameLeftError(DatabaseFaultError):
    """Another instance's database had the wanted name until a rename, and the ODS/API may not know that yet.

    Args:
        database: the name that the other database has now.
        wait: how long the name is reserved, in words.
    """

    def __init__(self, name: str, database: str, wait: str) -> None:
        super().__init__(
            f"Until its rename, the database '{database}' of another instance was named '{name}'. The ODS/API"
            " may still have that in its cache, and would have clients of that instance write into this one's"
            f" database. Nothing was done. {wait}"
        )


class FormerNameTakenError(DatabaseFaultError):
    """Another database has the name that an instance's had until its delete, and the ODS/API may cache it.

    `wait` says for how long.
    """

    def __init__(self, name: str, wait: str) -> None:
        super().__init__(
            f"Another database is named '{name}' by now, as this instance's was until its delete. The ODS/API"
            " may still have that in its cache, and would have clients of this instance write into the other"
            f" database. Nothing was done. Wait {wait}, then undelete it."
        )


class DisagreementError(DatabaseFaultError):
    """Registry and server do not agree about the `database` of an instance; nothing was done to it."""

    def __init__(self, database: str, reason: str) -> None:
        super().__init__(reason)
        self.database = database


def means_outage(sqlstate: str) -> bool:
    """Whether a SQLSTATE says that there is an outage."""
    return sqlstate in _OUTAGE_STATES or sqlstate.startswith(_OUTAGE_CLASSES)


@contextmanager
def translate_postgres_errors(reasons: Mapping[str, str]) -> Iterator[None]:
    """Turn errors of PostgreSQL and of the connection to it into `DatabaseFaultError`."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _fault(error.sqlstate or "", reasons) from None
    except LOST:
        raise DatabaseFaultError(
            "The PostgreSQL server of the ODS databases cannot be reached.",
            outage=True,
            sqlstate=_CONNECTION_FAILURE,
        ) from None


def _fault(sqlstate: str, reasons: Mapping[str, str]) -> DatabaseFaultError:
    retryable = sqlstate in _RETRYABLE_STATES or sqlstate.startswith(_RETRYABLE_CLASSES)
    reason = reasons.get(sqlstate) or _general_reason(sqlstate)
    return DatabaseFaultError(reason, retryable=retryable, outage=means_outage(sqlstate), sqlstate=sqlstate)


_GENERAL_REASONS = {
    LOCK_NOT_AVAILABLE: "Another session holds a lock that this step needs. End its transaction.",
    DISK_FULL: "The PostgreSQL server has run out of disk space. Free some.",
    "53300": "The PostgreSQL server, or the database, has no free connections. Close some, or raise"
    " max_connections, or the CONNECTION LIMIT of the database.",
    INSUFFICIENT_PRIVILEGE: "The role of ODS_MASTER_DSN lacks a right on the PostgreSQL server. `ods grants"
    " --check` says which.",
    READ_ONLY: "The PostgreSQL server is read-only: it is a standby, or was made one. Wait until it has"
    " taken over, or correct ODS_MASTER_DSN.",
}


def _general_reason(sqlstate: str) -> str:
    if sqlstate in _GENERAL_REASONS:
        return _GENERAL_REASONS[sqlstate]
    if sqlstate.startswith("28"):
        return "The PostgreSQL server refused the login of ODS_MASTER_DSN. Correct it, then retry."
    if sqlstate.startswith(("08", "57P")):
        return "The PostgreSQL server ended the connection: it is starting, stopping, or closed it."
    return f"PostgreSQL refused the step with SQLSTATE {sqlstate}. Its log tells more."
