"""Registering an API client, and getting a bearer token for it."""

import asyncio
import base64
from binascii import Error as Base64Error
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from api.http import problems
from api.http.parsing import BODY_REFUSALS, FORM_TYPE, Form, Properties, documented_body
from api.http.problems import ProblemError
from api.middleware.audit import AuditContextDep
from api.schemas.base import Done
from api.services import Services, ServicesDep
from registry.clients.credentials import LONGEST_CLIENT_TEXT, OAUTH_SCOPES, STRONG_SECRET, ClientScope
from registry.clients.store import ClientExistsError
from registry.storage.rules import required_text_errors

router = APIRouter(prefix="/connect", tags=["Connect"])

_STRENGTH = (
    "'Client Secret' must have 32 to 128 characters, among them a lower case letter, an upper case letter,"
    " a digit and a special character."
)
_GRANT_TYPE = "client_credentials"

# As ECMAScript writes it: something that is no blank, and no NUL.
_Text = Annotated[
    str,
    Field(
        max_length=LONGEST_CLIENT_TEXT, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00-\x1f\x85][^\x00]*$"}
    ),
]


class _RegistrationForm(BaseModel):
    ClientId: _Text
    ClientSecret: str = Field(json_schema_extra={"pattern": f"^{STRONG_SECRET.pattern}$"})
    DisplayName: _Text


class _TokenForm(BaseModel):
    grant_type: Literal["client_credentials"]
    scope: Literal["edfi_admin_api/full_access", "edfi_admin_api/readonly_access"]
    client_id: str = Field("", description="Left out with HTTP Basic authentication.")
    client_secret: str = Field("", description="Left out with HTTP Basic authentication.")


class _GrantRefusal(BaseModel):
    error: str
    error_description: str


class Token(BaseModel):
    """A token, as OAuth 2.0 words it."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a kind of token
    expires_in: int = Field(description="Seconds.")


async def _admits_registration(request: Request, services: ServicesDep) -> None:
    services.limits.admit_registration(request)
    if not services.settings.registration and not await services.registration.is_open():
        raise ProblemError(HTTPStatus.FORBIDDEN, "Registration is closed")


def _admits_token(request: Request, services: ServicesDep) -> None:
    services.limits.admit_token(request)


async def _valid_registration(form: Form, services: ServicesDep) -> Properties[str]:
    errors = {
        "ClientId": await _client_id_faults(form.get("ClientId", ""), services),
        "ClientSecret": _secret_faults(form.get("ClientSecret", "")),
        "DisplayName": required_text_errors("Display Name", form.get("DisplayName"), LONGEST_CLIENT_TEXT),
    }
    if any(errors.values()):
        raise ProblemError.invalid(errors)
    return form


@router.post(
    "/register",
    dependencies=[Depends(_admits_registration)],
    openapi_extra=documented_body(_RegistrationForm, FORM_TYPE),
    responses=problems.documented(*BODY_REFUSALS, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS),
)
async def register(
    form: Annotated[Properties[str], Depends(_valid_registration)],
    services: ServicesDep,
    audit: AuditContextDep,
) -> Done:
    """Register an API client, while registration is open."""
    client_id = form["ClientId"]
    try:
        await services.clients.register(client_id, form["ClientSecret"], form["DisplayName"])
    except ClientExistsError:  # since we looked
        raise ProblemError.invalid({"ClientId": [_taken(client_id)]}) from None
    audit.client = client_id
    return Done(title=f"Registered client {client_id} successfully.", status=HTTPStatus.OK)


class _GrantRefusedError(ProblemError):
    """A refusal as OAuth 2.0 words it."""

    def __init__(
        self,
        status: HTTPStatus,
        error: str,
        description: str,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(status, error, headers)
        self._refusal = {"error": error, "error_description": description}
        self._media_type = media_type

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self._refusal, self.status, self.headers, self._media_type)


def _invalid_scope() -> _GrantRefusedError:
    description = "The request is missing required scope claims or has invalid scope values"
    return _GrantRefusedError(
        HTTPStatus.BAD_REQUEST, "invalid_scope", description, media_type=problems.MEDIA_TYPE
    )


def _documented_grant_refusals() -> dict[int | str, dict[str, Any]]:
    refusal, problem = _GrantRefusal.model_json_schema(), problems.Problem.model_json_schema()
    schema, either = {"schema": refusal}, {"schema": {"anyOf": [refusal, problem]}}
    return {
        HTTPStatus.BAD_REQUEST.value: {
            "description": "Refused, as OAuth 2.0 words it.",
            "content": {"application/json": schema, problems.MEDIA_TYPE: either},
        },
        HTTPStatus.UNAUTHORIZED.value: {
            "description": "Refused, as OAuth 2.0 words it.",
            "content": {"application/json": schema},
        },
    }


def _access_denied(challenges: str) -> _GrantRefusedError:
    return _GrantRefusedError(
        HTTPStatus.UNAUTHORIZED,
        "invalid_client",
        "Access Denied. Please review your information and try again.",
        headers={"WWW-Authenticate": challenges},
    )


@dataclass(frozen=True)
class _TokenRequest:
    grant_type: str
    scope: ClientScope | None
    client_id: str
    secret: str
    challenges: str

    @classmethod
    def read(cls, request: Request, form: Form) -> Self:
        basic = _basic_credentials(request.headers.get("authorization", ""))
        client_id, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        return cls(
            grant_type=form.get("grant_type", ""),
            scope=_scope(form.get("scope", "")),
            client_id=client_id,
            secret=secret,
            # As every refusal names it; who has used HTTP Basic is told of that as well (RFC 6749, 5.2).
            challenges='Bearer, Basic realm="connect"' if basic else "Bearer",
        )

    def require_order(self) -> ClientScope:
        """The scope that is asked for, unless the request is wrong, whichever client sent it.

        Raises:
            _GrantRefusedError: something is.
        """
        if self.grant_type != _GRANT_TYPE:
            raise _access_denied(self.challenges)
        if not self.client_id.strip() or not self.secret.strip():
            raise _GrantRefusedError(
                HTTPStatus.BAD_REQUEST, "invalid_request", "The client's id and secret are needed."
            )
        if self.scope is None:
            raise _invalid_scope()
        return self.scope


@router.post(
    "/token",
    response_model=Token,
    dependencies=[Depends(_admits_token)],
    openapi_extra=documented_body(_TokenForm, FORM_TYPE),
    responses=problems.documented(*BODY_REFUSALS, HTTPStatus.TOO_MANY_REQUESTS)
    | _documented_grant_refusals(),
)
async def token(
    request: Request,
    asked: Annotated[_TokenRequest, Depends(_TokenRequest.read)],
    services: ServicesDep,
    audit: AuditContextDep,
) -> Response:
    """Issue a bearer token."""
    scope = asked.require_order()
    log_in = services.limits.log_in(request, services.tenant, asked.client_id)
    credentials = await services.clients.verify(asked.client_id, asked.secret, log_in)
    if credentials is None:
        await asyncio.sleep(log_in.delay)
        raise _access_denied(asked.challenges)
    audit.client = asked.client_id
    if not credentials.standing.scope.includes(scope):
        raise _invalid_scope()
    issued = services.tokens.issue(asked.client_id, OAUTH_SCOPES[scope], credentials.standing.generation)
    return JSONResponse(
        Token(access_token=issued, expires_in=services.tokens.lifetime).model_dump(),
        headers={"Cache-Control": "no-store"},
        background=None
        if credentials.use_is_noted
        else BackgroundTask(services.clients.note_use, asked.client_id),
    )


def _basic_credentials(authorization: str) -> tuple[str, str] | None:
    """Client id and secret of HTTP Basic, each of them form-encoded (RFC 6749, 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (Base64Error, UnicodeDecodeError):
        return "", ""
    return unquote_plus(client_id), unquote_plus(secret)


def _scope(words: str) -> ClientScope | None:
    """The only scope that is asked for, if there is one of this name."""
    return next((scope for scope, name in OAUTH_SCOPES.items() if words.split() == [name]), None)


async def _client_id_faults(client_id: str, services: Services) -> list[str]:
    faults = required_text_errors("Client Id", client_id, LONGEST_CLIENT_TEXT)
    if not faults and await services.clients.exists(client_id):
        return [_taken(client_id)]
    return faults


def _taken(client_id: str) -> str:
    return f"A client with the id '{client_id}' already exists. Choose another id."


def _secret_faults(secret: str) -> list[str]:
    if not secret.strip():
        return ["'Client Secret' must not be empty."]
    if not STRONG_SECRET.fullmatch(secret):
        return [_STRENGTH]
    return []
