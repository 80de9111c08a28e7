"""Tokens as an Ed-Fi Admin API signs them: OpenIddict's, with a shared key."""

import base64
import json
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jwt

from api.security.tokens import FULL_ACCESS
from tests.secret_search import as_secret

ADMIN_API_ISSUER = "http://admin-api.example/"
"""`iss` in its tokens, for the setting `http://admin-api.example`: .NET writes a slash after a bare host."""
ADMIN_API_KEY = as_secret(base64.b64encode(bytes(range(100, 164))).decode())
"""`Authentication:SigningKey`, longer than keys of this service are."""


def admin_api_settings(**changes: Any) -> dict[str, Any]:
    """Settings of this service that accept these tokens, with `changes`."""
    return {
        "admin_api_issuer": ADMIN_API_ISSUER.rstrip("/"),
        "admin_api_signing_key": ADMIN_API_KEY,
        **changes,
    }


def admin_api_token(
    client_id: str,
    *,
    scope: str | list[str] | None = FULL_ACCESS,
    key: str = ADMIN_API_KEY,
    issuer: str = ADMIN_API_ISSUER,
    expires_in: int = 1800,
    header: Mapping[str, str | None] = MappingProxyType({}),
    **changes: Any,
) -> str:
    """The token that the Admin API gives to a client.

    Args:
        client_id: the client.
        scope: what it asks for; None for a token without scopes.
        key: `Authentication:SigningKey`, in base64.
        issuer: `Authentication:IssuerUrl`, as .NET writes it.
        expires_in: seconds until it ends.
        header: changes of its header.
        changes: other claims; one that is None is left out.
    """
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": client_id,
        "name": f"{client_id} by name",
        "scope": scope,
        "exp": now + expires_in,
        "iat": now,
        "jti": str(uuid.uuid4()),
        "oi_prst": client_id,
        "oi_tkn_id": "1",
        "client_id": client_id,
    } | changes
    given = {name: value for name, value in claims.items() if value is not None}
    # As it is, also if it is wrong: `jwt.encode` would refuse it.
    headers = {"typ": "at+jwt", **header}
    return jwt.PyJWS().encode(json.dumps(given).encode(), base64.b64decode(key), "HS256", headers)
