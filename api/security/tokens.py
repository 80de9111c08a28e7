"""Who is calling: everything below `/v2` needs a bearer token with a scope that allows it."""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, Self

import jwt
from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from api.http.audit_context import audit_context
from api.http.problems import ProblemError
from ods.registry.clients.credentials import BACKUP_DOWNLOAD, LEEWAY_SECONDS, OAUTH_SCOPES, ClientScope
from ods.settings.settings import DEFAULT_TENANT

FULL_ACCESS = OAUTH_SCOPES[ClientScope.FULL_ACCESS]
READ_ONLY = OAUTH_SCOPES[ClientScope.READ_ONLY]
KNOWN_SCOPES = frozenset({FULL_ACCESS, READ_ONLY, BACKUP_DOWNLOAD})
ACCESS_TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
"""What access tokens say that they are (RFC 9068, 2.1), in any case of letters."""

_EVERYTHING = f"{FULL_ACCESS} {BACKUP_DOWNLOAD}"
_ALGORITHM = "HS256"
_CALLER = "caller"
"""In the state of a request: whom its token speaks for."""
_NOT_ALLOWED = "The token's scope does not allow this"
_ISSUER = "ods-instance-management"
_AUDIENCE = "edfi_admin_api"
_CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "tenant"]


@dataclass(frozen=True)
class Caller:
    """Whom a valid token speaks for.

    Args:
        client: the id of the client.
        scopes: what it may do.
        tenant: the only tenant that the token is good for, in any case of letters.
        generation: of the client, when we issued the token; None if it names none.
        issued_at: when that was, in seconds since 1970.
    """

    client: str
    scopes: frozenset[str]
    tenant: str
    generation: str | None = None
    issued_at: float = 0

    @classmethod
    def of(cls, claims: dict[str, Any]) -> Self:
        """The caller that the claims of a token name."""
        return cls(
            client=claims["sub"],
            scopes=words(claims.get("scope")) | words(claims.get("scp")),
            tenant=str(claims.get("tenant", DEFAULT_TENANT)),
            generation=claims.get("generation"),
            issued_at=claims.get("iat", 0),
        )


class TokenVerifier(Protocol):
    """Verifies bearer tokens."""

    async def verify(self, token: str) -> Caller | None:
        """Whom the token speaks for; None if it is not valid."""


class Tokens:
    """Issues tokens to one tenant's clients, and verifies them: any API process can.

    Args:
        keys: each of 32 bytes; the first one signs, and tokens of the others are valid as well.
        lifetime: seconds that they are valid.
        tenant: the tenant.
    """

    def __init__(self, keys: Sequence[bytes], lifetime: int, tenant: str = DEFAULT_TENANT) -> None:
        self._keys = keys
        self._tenant = tenant
        self.lifetime = lifetime

    def issue(self, client_id: str, scope: str = _EVERYTHING, generation: uuid.UUID | None = None) -> str:
        """A token for the client, with these scopes of OAuth 2.0, as long as it has this generation."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": client_id,
            "scope": scope,
            "iat": now,
            "exp": now + self.lifetime,
            "tenant": self._tenant,
        }
        if generation is not None:
            claims["generation"] = str(generation)
        return jwt.encode(claims, self._keys[0], _ALGORITHM)

    async def verify(self, token: str) -> Caller | None:
        """Whom the token speaks for; None if it is not ours, changed, too old, or for another tenant."""
        for key in self._keys:
            # A token's header is JSON, nested as deeply as the sender likes.
            with suppress(jwt.PyJWTError, RecursionError):
                identity = Caller.of(_claims(token, key))
                return identity if identity.tenant.lower() == self._tenant.lower() else None
        return None


def _claims(token: str, key: bytes) -> dict[str, Any]:
    return jwt.decode(
        token,
        key,
        [_ALGORITHM],
        audience=_AUDIENCE,
        issuer=_ISSUER,
        leeway=LEEWAY_SECONDS,
        options={"require": _CLAIMS},
    )


bearer_token = HTTPBearer(bearerFormat="JWT", scheme_name="bearerToken", auto_error=False)
"""Describes, on the endpoints below `/v2`, what the protocol requires before they are reached."""


async def authenticate(
    connection: HTTPConnection, verifier: TokenVerifier, tenant: str, *, reads: bool
) -> None:
    """Let a request pass that brings a valid token for the tenant, with a scope that allows it.

    What an endpoint needs beyond that, it says by `needs_scope`.

    Args:
        connection: the request.
        verifier: verifies its token.
        tenant: which tenant it is for.
        reads: whether it changes nothing, so that a token which may only read suffices.

    Raises:
        ProblemError: 401 without a valid token, 403 without such a scope.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    identity = await verifier.verify(token.strip()) if scheme.lower() == "bearer" else None
    if identity is None or identity.tenant.lower() != tenant.lower():
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "A bearer token is needed", {"WWW-Authenticate": "Bearer"}
        )
    audit_context(connection).client = identity.client
    connection.scope["state"][_CALLER] = identity
    if not (FULL_ACCESS in identity.scopes or (READ_ONLY in identity.scopes and reads)):
        raise ProblemError(HTTPStatus.FORBIDDEN, _NOT_ALLOWED)


def needs_scope(scope: str, why: str) -> Any:  # noqa: ANN401 - as FastAPI has it
    """What an endpoint depends on that needs a scope beside full or reading access.

    Args:
        scope: the scope of OAuth 2.0.
        why: what the client wants, as the beginning of a sentence of the refusal.
    """

    async def require(connection: HTTPConnection) -> None:
        identity: Caller = connection.scope["state"][_CALLER]
        if scope not in identity.scopes:
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                _NOT_ALLOWED,
                detail=f"{why} needs a token with the scope {scope}.",
                nextStep="Ask for a token with this scope. The operator says which clients may have it.",
            )

    return Depends(require)


def words(claim: object) -> frozenset[str]:
    """The words of a claim that has them separated by spaces, or as a list."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(map(str, words))
