"""Bearer tokens: signed by us, so that any API process can check them without asking anybody."""

import time
from http import HTTPStatus
from typing import Any

import jwt
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from api.problems import ProblemError
from api.trail import deed
from settings import DEFAULT_TENANT

FULL_ACCESS = "edfi_admin_api/full_access"

_ALGORITHM = "HS256"
_ISSUER = "ods-instance-management"
_AUDIENCE = "edfi_admin_api"
_CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "tenant"]


class Tokens:
    """Issues and checks tokens of one tenant's clients.

    Args:
        key: 32 bytes that sign them.
        lifetime: seconds that they are valid.
        tenant: the tenant.
    """

    def __init__(self, key: bytes, lifetime: int, tenant: str = DEFAULT_TENANT) -> None:
        self._key = key
        self._tenant = tenant
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
            "tenant": self._tenant,
        }
        return jwt.encode(claims, self._key, _ALGORITHM)

    def claims(self, token: str) -> dict[str, Any] | None:
        """What a valid token says; None if it is not ours, changed, too old, or for another tenant."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                [_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={"require": _CLAIMS},
            )
        except (jwt.PyJWTError, RecursionError):  # its header is JSON, nested as deeply as the sender likes
            return None
        return claims if claims["tenant"] == self._tenant else None


bearer_token = HTTPBearer(bearerFormat="JWT", scheme_name="bearerToken", auto_error=False)
"""Describes, on the endpoints below `/v2`, what the protocol requires before they are reached."""


async def authenticate(connection: HTTPConnection) -> None:
    """Let a request pass that brings a valid token with the scope for everything.

    Raises:
        ProblemError: 401 without a valid token, 403 without the scope.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    tokens: Tokens = connection.scope["state"]["services"].tokens
    claims = tokens.claims(token.strip()) if scheme.lower() == "bearer" else None
    if claims is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "A bearer token is needed", {"WWW-Authenticate": "Bearer"}
        )
    deed(connection).client = claims["sub"]
    if FULL_ACCESS not in str(claims["scope"]).split():
        raise ProblemError(HTTPStatus.FORBIDDEN, "The token's scope does not allow this")
