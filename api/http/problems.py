"""Answers to requests that cannot be granted, as `application/problem+json` (RFC 9457).

Each kind of error has one answer, in words for the client; nothing else of the error leaves the process.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import singledispatch
from http import HTTPStatus
from typing import Any, Self, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import exc
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.http.audit_context import audit_context
from ods.backups.errors import BackupFaultError, RestoreRefusedError
from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError
from ods.observability.logs import fault_name
from ods.recovery.adoption import AdoptionRefusedError
from ods.recovery.recovery import IdentityError
from ods.registry.rights.missing import MissingRightsError
from ods.registry.storage.connecting import READ_ONLY
from ods.registry.storage.errors import (
    BackupNotFoundError,
    BackupRefusedError,
    InstallationNotConfirmedError,
    InstanceNotFoundError,
    InvalidError,
    JobRefusedError,
    KeyInUseError,
    KeyOfAnotherRequestError,
    NameTakenError,
    RefusedError,
    RowNotFoundError,
)
from ods.tenants.usage import DatabaseNotFoundError

MEDIA_TYPE = "application/problem+json"

_RETRY_SECONDS = 5
# The connection: lost, refused, on a standby, not admitted, no such database, a conflict of transactions, out
# of room, shutting down.
_AWAY = ("08", READ_ONLY, "28", "3D", "40", "53", "57")
_WITHOUT_BODY = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
"""As an Admin API answers them; those that say more than a title, which it does not, have a body."""

ODS_SERVER_REFUSALS = (HTTPStatus.CONFLICT,)
"""How an endpoint answers a fault of the ODS server that needs a person, for the endpoint's documentation.

Other faults of the server are answered 503, as those of the registry are.
"""

_Found = TypeVar("_Found")

_logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """The documentation of a problem's members."""

    title: str
    status: int
    detail: str | None = None
    errors: dict[str, list[str]] | None = Field(None, description="Per property, everything wrong with it.")
    state: str | None = Field(None, description="On 409: the status that the instance or job is in.")
    nextStep: str | None = Field(None, description="On 409: what to do instead.")  # noqa: N815 - on the wire


class ProblemError(Exception):
    """An answer other than the one that was asked for.

    Args:
        status: the HTTP status.
        title: what is wrong, for a person.
        headers: further headers of the answer.
        members: further members of the problem.
    """

    def __init__(
        self, status: HTTPStatus, title: str, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(title)
        self.status = status
        self.members = members
        self.title = title
        self.content = {"title": title, "status": status, **members}
        self.headers = headers

    @classmethod
    def of_status(cls, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Self:
        """What HTTP itself has a word for."""
        return cls(status, status.phrase, headers)

    @classmethod
    def not_found(cls, resource: str, identifier: object, **members: str) -> Self:
        """No such resource."""
        return cls(
            HTTPStatus.NOT_FOUND,
            f"Not found: {resource} with ID {identifier}. It may have been recently deleted.",
            None,
            **members,
        )

    @classmethod
    def invalid(cls, errors: Mapping[str, Sequence[str]]) -> Self:
        """Properties, in PascalCase, that break rules; those with no faults are left out."""
        faults = {name: list(messages) for name, messages in errors.items() if messages}
        return cls(HTTPStatus.BAD_REQUEST, "Validation failed", errors=faults)

    @classmethod
    def unavailable(cls, title: str, detail: str = "Try again in a few seconds.") -> Self:
        """Something the service needs is away; `detail` says what to do."""
        headers = {"Retry-After": str(_RETRY_SECONDS)}
        return cls(HTTPStatus.SERVICE_UNAVAILABLE, title, headers, detail=detail)

    def response(self) -> Response:
        """The answer."""
        if self.status in _WITHOUT_BODY and not self.members:
            return Response(status_code=self.status, headers=self.headers)
        return JSONResponse(self.content, self.status, self.headers, MEDIA_TYPE)


def pascal(name: str) -> str:
    """A name of the wire, which is in camelCase, as errors are filed under it: in PascalCase."""
    return name[:1].upper() + name[1:]


def in_words(name: str) -> str:
    """A name in PascalCase as messages write it: in split words."""
    return re.sub("(?<=.)(?=[A-Z])", " ", name)


def found(row: _Found | None, resource: str, identifier: object) -> _Found:
    """What was looked for.

    Args:
        row: it, or None if there is none.
        resource: what it is, in the word that clients use.
        identifier: the id that it was looked for by.

    Raises:
        ProblemError: 404, there is none.
    """
    if row is None:
        raise ProblemError.not_found(resource, identifier)
    return row


def reference(model: type[BaseModel]) -> dict[str, str]:
    """The OpenAPI reference to `model`: of copies in each place, generated clients would leave most out."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the refusals of an endpoint that needs the registry."""
    schema = {"content": {MEDIA_TYPE: {"schema": reference(Problem)}}}
    return {
        status.value: {"description": status.phrase} | ({} if status in _WITHOUT_BODY else schema)
        for status in (*statuses, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
    }


def install(app: FastAPI) -> None:
    """Make `app` answer every fault as explained here."""
    for kind in explained.registry:
        app.add_exception_handler(Exception if kind is object else kind, answer)


async def answer(request: Request, error: Exception) -> Response:
    """The answer to `request`, which met `error`."""
    return noted(request, error).response()


def noted(request: Request, error: Exception) -> ProblemError:
    """The problem that `request` has met, written to the audit trail, and to the log if it is a fault."""
    problem = explained(error)
    audit_context(request).title = problem.title
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        path = getattr(request.scope.get("route"), "path", "?")
        fault = fault_name(error.__cause__ or error)
        _logger.error("%s %s answered %d: %s", request.method, path, problem.status, fault)
    return problem


def _rights_missing(reason: str) -> ProblemError:
    title = "The service lacks a right on its database"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, title, detail=reason)


@singledispatch
def explained(error: object) -> ProblemError:  # noqa: ARG001 - dispatched on its type
    """The answer to a request that met `error`."""
    message = "The service met an unexpected fault. Its log tells more."
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error", message=message)


@explained.register
def _(error: ProblemError) -> ProblemError:
    return error


@explained.register
def _(error: HTTPException) -> ProblemError:
    return ProblemError.of_status(HTTPStatus(error.status_code), error.headers)


@explained.register
def _(_: ClientDisconnect) -> ProblemError:
    return ProblemError(
        HTTPStatus.BAD_REQUEST, "The request ended too early"
    )  # for the log: the client is gone


@explained.register
def _(error: RequestValidationError) -> ProblemError:
    errors: dict[str, list[str]] = {}
    for fault in error.errors():
        name = pascal(str(fault["loc"][-1]))
        rule = fault["msg"].split(",")[0].partition("Input should be ")[2]
        # Only numbers of thousands of digits are refused in other words.
        errors.setdefault(name, []).append(f"'{in_words(name)}' must be {rule or 'a smaller number'}.")
    return ProblemError.invalid(errors)


@explained.register
def _(error: InstanceNotFoundError) -> ProblemError:
    return ProblemError.not_found("dbInstance", error.instance_id)


@explained.register
def _(error: DatabaseNotFoundError) -> ProblemError:
    detail = (
        "No database of this name is the instance's, or could be adopted. It could be if it belonged to the"
        " role of ODS_MASTER_DSN, and had a name like those of instances' databases, no comment and no other"
        " use."
    )
    return ProblemError.not_found("database", error.database, detail=detail)


@explained.register
def _(error: AdoptionRefusedError) -> ProblemError:
    return ProblemError(
        HTTPStatus.CONFLICT, "The database cannot be adopted", state=error.status, detail=error.obstacle
    )


@explained.register
def _(error: InstallationNotConfirmedError) -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The installation must be confirmed by its operator",
        detail=str(error),
    )


@explained.register
def _(error: IdentityError) -> ProblemError:
    return ProblemError(HTTPStatus.CONFLICT, "This registry is not that installation", detail=str(error))


@explained.register
def _(error: RowNotFoundError) -> ProblemError:
    return ProblemError.not_found(error.resource, error.identifier)


@explained.register
def _(error: InvalidError) -> ProblemError:
    return ProblemError.invalid(error.errors)


@explained.register
def _(error: NameTakenError) -> ProblemError:
    return ProblemError.invalid({"Name": [str(error)]})


@explained.register
def _(error: RefusedError) -> ProblemError:
    return _conflict("The instance's state does not allow this", error)


@explained.register
def _(error: JobRefusedError) -> ProblemError:
    return _conflict("The job's state does not allow this", error)


@explained.register
def _(error: BackupRefusedError) -> ProblemError:
    return _conflict("The backup's state does not allow this", error)


@explained.register
def _(error: BackupNotFoundError) -> ProblemError:
    return ProblemError.not_found("backup", error.backup_id)


@explained.register
def _(error: BackupFaultError) -> ProblemError:
    """503 while the same request may succeed later by itself; 409 if a person must mend something first."""
    if error.outage:
        return ProblemError.unavailable(error.reason)
    return ProblemError(HTTPStatus.CONFLICT, "Backups are not possible as it is", detail=error.reason)


@explained.register
def _(error: RestoreRefusedError) -> ProblemError:
    return ProblemError(HTTPStatus.CONFLICT, "Nothing is restored as it is", detail=error.reason)


def _conflict(title: str, error: RefusedError) -> ProblemError:
    return ProblemError(
        HTTPStatus.CONFLICT, title, detail=error.reason, state=error.status, nextStep=error.next_step
    )


@explained.register
def _(_: KeyInUseError) -> ProblemError:
    return ProblemError(
        HTTPStatus.CONFLICT,
        "A request with this Idempotency-Key is still under way",
        {"Retry-After": "1"},
        detail="Send the same request again in a moment.",
    )


@explained.register
def _(_: KeyOfAnotherRequestError) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Another request was sent with this Idempotency-Key",
        detail="Choose a new key for each request, and repeat a request without any change.",
    )


@explained.register
def _(error: MissingRightsError) -> ProblemError:
    return _rights_missing(str(error))


@explained.register
def _(error: DatabaseFaultError) -> ProblemError:
    """503 while the same request may succeed later by itself; 409 if a person must mend something first.

    A missing right is a fault of the installation, and not of what was requested: 503.
    """
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return _rights_missing(error.reason)
    if error.retryable:
        return ProblemError.unavailable(error.reason)
    return ProblemError(HTTPStatus.CONFLICT, "The server of the ODS databases refuses", detail=error.reason)


@explained.register(exc.TimeoutError)
@explained.register(OSError)
def _(_: Exception) -> ProblemError:
    return ProblemError.unavailable("The registry cannot be reached")


@explained.register
def _(error: exc.DBAPIError) -> ProblemError:
    state = getattr(error.orig, "sqlstate", None) or ""
    if error.connection_invalidated or isinstance(error, exc.InterfaceError) or state.startswith(_AWAY):
        return ProblemError.unavailable("The registry cannot be reached")
    return explained.dispatch(object)(error)
