"""Bearer tokens: signed by us, so that any API process can check them without asking anybody."""

import time
from http import HTTPMethod, HTTPStatus
from typing import Any

import jwt
from fastapi import Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import Scope

from api.problems import ProblemError, answer
from api.trail import deed
from settings import DEFAULT_TENANT

FULL_ACCESS = "edfi_admin_api/full_access"

_ALGORITHM = "HS256"
_ISSUER = "ods-instance-management"
_AUDIENCE = "edfi_admin_api"
_CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "tenant"]
_PROTECTED = "/v2/"


class Tokens:
    """Issues and checks tokens.

    Args:
        key: 32 bytes that sign them.
        lifetime: seconds that they are valid.
    """

    def __init__(self, key: bytes, lifetime: int) -> None:
        self._key = key
        self.lifetime = lifetime

    def issue(self, client_id: str) -> str:
        """A token for the client."""
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": client_id,
            "scope": FULL_ACCESS,
            "iat": now,
            "exp": now + self.lifetime,
            "tenant": DEFAULT_TENANT,
        }
        return jwt.encode(claims, self._key, _ALGORITHM)

    def claims(self, token: str) -> dict[str, Any] | None:
        """What a valid token says; None if it is not ours, changed, or too old."""
        try:
            return jwt.decode(
                token,
                self._key,
                [_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={"require": _CLAIMS},
            )
        except (jwt.PyJWTError, RecursionError):  # its header is JSON, nested as deeply as the sender likes
            return None


class _BearerToken(HTTPBearer):
    """The dependency of every endpoint below `/v2`: a valid token with the scope for everything."""

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials:
        """Let the request pass.

        Raises:
            ProblemError: 401 without a valid token, 403 without the scope.
        """
        credentials = await super().__call__(request)
        claims = request.app.state.services.tokens.claims(credentials.credentials) if credentials else None
        if credentials is None or claims is None:
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED, "A bearer token is needed", {"WWW-Authenticate": "Bearer"}
            )
        deed(request).client = claims["sub"]
        if FULL_ACCESS not in str(claims["scope"]).split():
            raise ProblemError(HTTPStatus.FORBIDDEN, "The token's scope does not allow this")
        return credentials


bearer_token = _BearerToken(bearerFormat="JWT", scheme_name="bearerToken", auto_error=False)


async def answer_unrouted(request: Request, error: Exception) -> Response:
    """The answer to a path or verb that no endpoint has; below `/v2`, only a valid token learns that."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if f"{path}/".startswith(_PROTECTED):
        try:
            await bearer_token(request)
        except ProblemError as refusal:
            error = refusal
    response = await answer(request, error)
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_verbs(request.scope))
    return response


def _verbs(scope: Scope) -> list[str]:
    """The verbs that the path has; the router tells only those of the endpoint that it meets first."""
    routes = scope["app"].routes
    asked = {verb: {**scope, "method": verb} for verb in HTTPMethod}
    return [
        verb for verb in HTTPMethod if any(route.matches(asked[verb])[0] is Match.FULL for route in routes)
    ]
