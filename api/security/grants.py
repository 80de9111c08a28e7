"""Granting bearer tokens for the credentials of clients (OAuth 2.0, RFC 6749, 4.4)."""

import asyncio
import base64
from binascii import Error as Base64Error
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import unquote_plus

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, JsonValue
from starlette.background import BackgroundTask

from api.http import problems
from api.http.audit_context import audit_context
from api.http.parsing import FORM_TYPE, Form, documented_body
from api.http.problems import ProblemError
from api.security.clients import ApiClients
from api.security.limits import ConnectLimits
from api.security.tokens import FULL_ACCESS, READ_ONLY, Tokens
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from ods.registry.clients.store import Credentials

_GRANT_TYPE = "client_credentials"
_ACCESS = ({FULL_ACCESS}, {READ_ONLY})
"""A request for a token names one of these scopes, and may name that for downloading backups beside it."""

_ASKABLE: list[JsonValue] = [
    *(FULL_ACCESS, READ_ONLY),
    *(f"{one} {BACKUP_DOWNLOAD}" for one in (FULL_ACCESS, READ_ONLY)),
]


class _TokenForm(BaseModel):
    grant_type: str = Field(json_schema_extra={"const": _GRANT_TYPE})
    scope: str = Field(
        json_schema_extra={"enum": _ASKABLE},
        description="With full access, a token may download backups as well, unless that is withheld.",
    )
    client_id: str = Field("", description="Left out with HTTP Basic authentication.")
    client_secret: str = Field("", description="Left out with HTTP Basic authentication.")


TOKEN_BODY = documented_body(_TokenForm, FORM_TYPE)


class GrantRefusal(BaseModel):
    """The documentation of a refusal's members, as OAuth 2.0 words it."""

    error: str
    error_description: str


def _documented_refusals() -> dict[int | str, dict[str, Any]]:
    refusal, problem = problems.reference(GrantRefusal), problems.reference(problems.Problem)
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


GRANT_REFUSALS = _documented_refusals()
"""The OpenAPI description of the refusals that OAuth 2.0 defines."""


class GrantRefusedError(ProblemError):
    """A refusal as OAuth 2.0 words it (RFC 6749, 5.2)."""

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


@dataclass(frozen=True)
class TokenRequest:
    """A request for a token; nothing of it has been judged.

    Attributes:
        grant_type: the kind of credentials that the client says it has.
        scopes: the scopes that the client asks for.
        client_id: the client.
        secret: its secret.
        challenges: how the client may authenticate, for the header `WWW-Authenticate` of a refusal.
    """

    grant_type: str
    scopes: frozenset[str]
    client_id: str
    secret: str
    challenges: str

    @classmethod
    async def read(cls, request: Request, form: Form) -> Self:
        """The request as its form and its header `Authorization` have it."""
        basic = _basic_credentials(request.headers.get("authorization", ""))
        client_id, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        return cls(
            grant_type=form.get("grant_type", ""),
            scopes=frozenset(form.get("scope", "").split()),
            client_id=client_id,
            secret=secret,
            # As every refusal names it; a client that has used HTTP Basic is told of that as well.
            challenges='Bearer, Basic realm="connect"' if basic else "Bearer",
        )

    def require_sound(self) -> None:
        """Go on unless the request is wrong, whichever client sent it.

        Raises:
            GrantRefusedError: another grant type, no credentials, or no scopes that there are.
        """
        if self.grant_type != _GRANT_TYPE:
            raise _access_denied(self.challenges)
        if not self.client_id.strip() or not self.secret.strip():
            raise GrantRefusedError(
                HTTPStatus.BAD_REQUEST, "invalid_request", "The client's id and secret are needed."
            )
        if self.scopes - {BACKUP_DOWNLOAD} not in _ACCESS:
            raise _invalid_scope()


@dataclass(frozen=True)
class Grant:
    """A token that was granted.

    Attributes:
        token: the bearer token.
        scope: the scopes that it has, separated by spaces.
        lifetime: seconds for which it is valid.
        afterwards: what is to be done once the client has the token.
    """

    token: str
    scope: str
    lifetime: int
    afterwards: BackgroundTask | None


class TokenGrants:
    """Grants tokens to the clients of one tenant.

    Args:
        clients: verifies secrets.
        tokens: issues tokens.
        limits: how often an address may ask for tokens, and a client fail.
    """

    def __init__(self, clients: ApiClients, tokens: Tokens, limits: ConnectLimits) -> None:
        self._clients = clients
        self._tokens = tokens
        self._limits = limits

    async def admit(self, connection: Request) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has asked for tokens too often.
        """
        await self._limits.admit_token(connection)

    async def log_in(self, connection: Request, client_id: str, secret: str) -> Credentials | None:
        """What the client may do if `secret` is its own, else None.

        Raises:
            ProblemError: 429, the client has failed too often at this address.
        """
        log_in = self._limits.log_in(connection, client_id)
        credentials = await self._clients.verify(client_id, secret, log_in)
        if credentials is None:
            await asyncio.sleep(log_in.delay)
        else:
            audit_context(connection).client = client_id
        return credentials

    async def note_use(self, client_id: str) -> None:
        """Record that the client was used now; a failure is only logged."""
        await self._clients.note_use(client_id)

    async def grant(self, connection: Request, asked: TokenRequest) -> Grant:
        """The token that the client has asked for.

        Raises:
            GrantRefusedError: the request is wrong, the secret is, or the client may not have the scope.
            ProblemError: 429, the client has failed too often at this address.
        """
        asked.require_sound()
        credentials = await self.log_in(connection, asked.client_id, asked.secret)
        if credentials is None:
            raise _access_denied(asked.challenges)
        standing = credentials.standing
        if not asked.scopes <= standing.token_scopes:
            raise _invalid_scope()
        included = {BACKUP_DOWNLOAD} if FULL_ACCESS in asked.scopes else frozenset[str]()
        scope = " ".join(sorted(asked.scopes | included & standing.token_scopes))
        return Grant(
            token=self._tokens.issue(asked.client_id, scope, standing.generation),
            scope=scope,
            lifetime=self._tokens.lifetime,
            afterwards=None if credentials.use_is_noted else BackgroundTask(self.note_use, asked.client_id),
        )


def _invalid_scope() -> GrantRefusedError:
    description = "The request is missing required scope claims or has invalid scope values"
    return GrantRefusedError(
        HTTPStatus.BAD_REQUEST, "invalid_scope", description, media_type=problems.MEDIA_TYPE
    )


def _access_denied(challenges: str) -> GrantRefusedError:
    return GrantRefusedError(
        HTTPStatus.UNAUTHORIZED,
        "invalid_client",
        "Access Denied. Please review your information and try again.",
        headers={"WWW-Authenticate": challenges},
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
