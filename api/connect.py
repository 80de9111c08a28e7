"""Registering an API client, and getting a bearer token for it."""

import base64
import re
from binascii import Error as Base64Error
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api import problems
from api.answers import Done
from api.auth import FULL_ACCESS
from api.clients import ClientExistsError
from api.problems import ProblemError
from api.requests import BODY_REFUSALS, FORM_TYPE, Form, Properties, documented_body
from api.services import Services, Serving
from api.trail import Noting
from instances.rules import required_text_faults

router = APIRouter(prefix="/connect", tags=["Connect"])

_LONGEST = 256
_STRONG_SECRET = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])(?=.*[^A-Za-z0-9\s]).{32,128}", re.DOTALL)
_STRENGTH = (
    "'Client Secret' must have 32 to 128 characters, among them a lower case letter, an upper case letter,"
    " a digit and a special character."
)
_GRANT_TYPE = "client_credentials"

# As ECMAScript writes it: something that is no blank, and no NUL.
_Text = Annotated[
    str, Field(max_length=_LONGEST, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00-\x1f\x85][^\x00]*$"})
]


class _RegistrationForm(BaseModel):
    ClientId: _Text
    ClientSecret: str = Field(json_schema_extra={"pattern": f"^{_STRONG_SECRET.pattern}$"})
    DisplayName: _Text


class _TokenForm(BaseModel):
    grant_type: Literal["client_credentials"]
    scope: Literal["edfi_admin_api/full_access"]
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


def _admits_registration(request: Request, services: Serving) -> None:
    services.limits.admit_registration(request)
    if not services.settings.registration:
        raise ProblemError(HTTPStatus.FORBIDDEN, "Registration is switched off")


def _admits_token(request: Request, services: Serving) -> None:
    services.limits.admit_token(request)


async def _valid_registration(form: Form, services: Serving) -> Properties[str]:
    errors = {
        "ClientId": await _client_id_faults(form.get("ClientId", ""), services),
        "ClientSecret": _secret_faults(form.get("ClientSecret", "")),
        "DisplayName": required_text_faults("Display Name", form.get("DisplayName"), _LONGEST),
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
    form: Annotated[Properties[str], Depends(_valid_registration)], services: Serving, noting: Noting
) -> Done:
    """Register an API client."""
    client_id = form["ClientId"]
    try:
        await services.clients.register(client_id, form["ClientSecret"], form["DisplayName"])
    except ClientExistsError:  # since we looked
        raise ProblemError.invalid({"ClientId": [_taken(client_id)]}) from None
    noting.client = client_id
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
    scopes: frozenset[str]
    client_id: str
    secret: str
    challenges: str

    @classmethod
    def read(cls, request: Request, form: Form) -> Self:
        basic = _basic_credentials(request.headers.get("authorization", ""))
        client_id, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        return cls(
            grant_type=form.get("grant_type", ""),
            scopes=frozenset(form.get("scope", "").split()),
            client_id=client_id,
            secret=secret,
            # As every refusal names it; who has used HTTP Basic is told of that as well (RFC 6749, 5.2).
            challenges='Bearer, Basic realm="connect"' if basic else "Bearer",
        )

    def require_order(self) -> None:
        """Refuse what is wrong with the request, whoever sent it.

        Raises:
            _GrantRefusedError: something is.
        """
        if self.grant_type != _GRANT_TYPE:
            raise _access_denied(self.challenges)
        if not self.client_id.strip() or not self.secret.strip():
            raise _GrantRefusedError(
                HTTPStatus.BAD_REQUEST, "invalid_request", "The client's id and secret are needed."
            )
        if self.scopes != {FULL_ACCESS}:
            description = "The request is missing required scope claims or has invalid scope values"
            raise _GrantRefusedError(
                HTTPStatus.BAD_REQUEST, "invalid_scope", description, media_type=problems.MEDIA_TYPE
            )


@router.post(
    "/token",
    response_model=Token,
    dependencies=[Depends(_admits_token)],
    openapi_extra=documented_body(_TokenForm, FORM_TYPE),
    responses=problems.documented(*BODY_REFUSALS, HTTPStatus.TOO_MANY_REQUESTS)
    | _documented_grant_refusals(),
)
async def token(
    asked: Annotated[_TokenRequest, Depends(_TokenRequest.read)], services: Serving, noting: Noting
) -> Response:
    """Issue a bearer token."""
    asked.require_order()
    if not await services.clients.verify(asked.client_id, asked.secret):
        raise _access_denied(asked.challenges)
    noting.client = asked.client_id
    issued = Token(access_token=services.tokens.issue(asked.client_id), expires_in=services.tokens.lifetime)
    return JSONResponse(issued.model_dump(), headers={"Cache-Control": "no-store"})


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


async def _client_id_faults(client_id: str, services: Services) -> list[str]:
    faults = required_text_faults("Client Id", client_id, _LONGEST)
    if not faults and await services.clients.exists(client_id):
        return [_taken(client_id)]
    return faults


def _taken(client_id: str) -> str:
    return f"A client with the id '{client_id}' already exists. Choose another id."


def _secret_faults(secret: str) -> list[str]:
    if not secret.strip():
        return ["'Client Secret' must not be empty."]
    if not _STRONG_SECRET.fullmatch(secret):
        return [_STRENGTH]
    return []
