"""Faults of activities: outages, for whose end the workflow waits, and answers about the job."""

import asyncpg
import pytest
from sqlalchemy import exc
from temporalio.exceptions import ApplicationError

from activities.errors import OUTAGE, as_application_error
from ods.backups.errors import BackupFaultError
from ods.databases.errors import DatabaseFaultError, NotOursError
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.errors import InstallationNotConfirmedError


class _DriverError(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("a text that no client may read")
        self.sqlstate = sqlstate


def registry_error(
    sqlstate: str | None, kind: type[exc.DBAPIError] = exc.OperationalError, *, broken: bool = False
) -> exc.DBAPIError:
    return kind("SELECT 1", None, _DriverError(sqlstate), connection_invalidated=broken)


def translated(error: Exception) -> ApplicationError:
    with pytest.raises(ApplicationError) as raised, as_application_error():
        raise error
    assert raised.value.__cause__ is None
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        DatabaseFaultError("away", outage=True),
        InstallationNotConfirmedError("confirm it"),
        MissingRightsError(["GRANT SELECT ON dbo.applications TO ods_service"]),
        registry_error(None, broken=True),
        registry_error("23505", broken=True),
        registry_error(None, exc.InterfaceError),
        *(registry_error(state) for state in ("57P01", "08006", "53300", "25006", "55P03", "3D000", "40001")),
        asyncpg.AdminShutdownError("ended"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.InterfaceError("closed"),
        ConnectionRefusedError("refused"),
        exc.TimeoutError("no connection is free"),
    ],
    ids=str,
)
def test_outage_is_told_and_tried_again_when_a_server_is_away(error: Exception) -> None:
    told = translated(error)
    assert told.type == OUTAGE
    assert not told.non_retryable
    assert "text that no client may read" not in told.message


@pytest.mark.parametrize(
    "error",
    [
        *(registry_error(state) for state in ("23505", "42P01", "22001", None)),
        asyncpg.UniqueViolationError("there"),
        exc.InvalidRequestError("a fault of the code"),
        ValueError("a fault of the code"),
    ],
    ids=str,
)
def test_error_passes_unchanged_when_it_is_no_outage(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, as_application_error():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("kind", [DatabaseFaultError, BackupFaultError])
@pytest.mark.parametrize("retryable", [True, False])
def test_answer_about_the_job_keeps_its_reason_and_whether_it_may_change(
    kind: type[DatabaseFaultError | BackupFaultError], *, retryable: bool
) -> None:
    told = translated(kind("the template is in use", retryable=retryable))
    assert (told.type, told.message) == (kind.__name__, "the template is in use")
    assert told.non_retryable is not retryable


def test_refusal_is_named_by_its_kind_when_a_database_is_not_ours() -> None:
    told = translated(NotOursError("somewhere"))
    assert told.type == "NotOursError"
    assert told.non_retryable
