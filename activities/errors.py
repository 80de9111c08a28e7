"""Faults of the ODS server and of the registry as `ApplicationError`s of Temporal."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import exc
from temporalio import activity
from temporalio.exceptions import ApplicationError

from ods.backups.errors import BackupFaultError
from ods.databases.constants import LOCK_NOT_AVAILABLE
from ods.databases.errors import LOST, DatabaseFaultError, means_outage
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.errors import InstallationNotConfirmedError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

OUTAGE = "Outage"
"""Type of errors that say that the registry or the ODS server is away, full, locked or read-only."""

_REGISTRY_AWAY = "The registry cannot be reached, or cannot be written to."
_RETRYABLE_CLASSES = ("3D", "40")
"""Classes of SQLSTATEs: the registry's database is being restored; two transactions conflicted."""


class SupersededError(ApplicationError):
    """The instance has moved on to another job or attempt, or belongs to another mark now."""

    def __init__(self) -> None:
        super().__init__(
            "The instance has moved on to another job or attempt.", type="Superseded", non_retryable=True
        )


class JobCancelledError(ApplicationError):
    """A client has cancelled the job, whose workflow may not know it yet."""

    def __init__(self) -> None:
        super().__init__("The job was cancelled.", type="Cancelled", non_retryable=True)


@contextmanager
def as_application_error() -> Iterator[None]:
    """Translate a fault: its reason, whether it is an outage, and else whether trying again can help.

    Raises:
        ApplicationError: of type `Outage`, or of the fault's class name; other exceptions pass unchanged.
    """
    try:
        yield
    except (DatabaseFaultError, BackupFaultError) as fault:
        kind = OUTAGE if fault.outage else type(fault).__name__
        raise ApplicationError(fault.reason, type=kind, non_retryable=not fault.retryable) from None
    except (InstallationNotConfirmedError, MissingRightsError) as obstacle:
        raise ApplicationError(str(obstacle), type=OUTAGE) from None
    except (*LOST, exc.SQLAlchemyError, asyncpg.PostgresError) as error:
        if not is_outage(error):
            raise
        raise ApplicationError(_REGISTRY_AWAY, type=OUTAGE) from None


def step(run: Callable[_Arguments, Awaitable[_Result]]) -> Callable[_Arguments, Coroutine[Any, Any, _Result]]:
    """An activity whose faults are translated as `as_application_error` does."""

    @activity.defn
    @wraps(run)
    async def translated(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with as_application_error():
            return await run(*args, **kwargs)

    return translated


def is_locked(error: Exception) -> bool:
    """Whether another session has locked a row: the registry is there, and others can be worked on."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == LOCK_NOT_AVAILABLE


def is_outage(error: Exception) -> bool:
    """Whether an error of the registry means that it is away; the ODS server's are `DatabaseFaultError`s."""
    if isinstance(error, exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return (
            error.connection_invalidated
            or isinstance(error, exc.InterfaceError)
            or means_outage(state)
            or state.startswith(_RETRYABLE_CLASSES)
        )
    if isinstance(error, asyncpg.PostgresError):
        return means_outage(error.sqlstate or "")
    return isinstance(error, (*LOST, exc.TimeoutError))
