"""A stand-in for Ed-Fi's Admin API: its clients, tokens and vendors, written from its contract alone."""

import base64
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.security.tokens import FULL_ACCESS
from tests.api.admin_api_tokens import ADMIN_API_KEY, admin_api_token
from tests.servers import session

VENDORS = [{"id": 1, "company": "A vendor", "namespacePrefixes": "uri://a-vendor.example"}]
_PERMISSIONS = json.dumps(["ept:token", "gt:client_credentials", f"scp:{FULL_ACCESS}"])
_REGISTER = """
INSERT INTO adminapi.applications (clientid, clientsecret, permissions, displayname) VALUES ($1, $2, $3, $4)
"""
_SECRET = "SELECT clientsecret FROM adminapi.applications WHERE clientid = $1"
_ITERATIONS = 1000
"""A tenth of what an Admin API takes: the processor is the tests'."""
_HEADER, _KEY_BYTES = struct.Struct(">BIII"), 32


class AdminApi:
    """The stand-in, as an ASGI application.

    Args:
        issuer: `Authentication:IssuerUrl`.
        registries: the DSN of each tenant's `EdFi_Admin`; one of the name None for a single tenant.
        path_base: `AppSettings:PathBase`, with a slash before it; it may stand before a path.
    """

    def __init__(self, issuer: str, registries: Mapping[str | None, str], path_base: str = "") -> None:
        self.asked: list[str] = []
        self._issuer = issuer
        self._registries = registries
        self._path_base = path_base
        self._app = Starlette(
            routes=[
                Route("/", self._information),
                Route("/connect/register", self._register, methods=["POST"]),
                Route("/connect/token", self._token, methods=["POST"]),
                Route("/v2/vendors", self._vendors),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"].removeprefix(self._path_base) or "/"
        self.asked.append(f"{scope['method']} {path}")
        await self._app({**scope, "path": path}, receive, send)

    async def _information(self, request: Request) -> Response:
        tenants = [name for name in self._registries if name]
        base = f"{request.headers['X-Forwarded-Proto']}://{request.headers['Host']}{self._path_base}"
        told = {
            "version": "2.4",
            "specificationVersion": "v2",
            "tenancy": {"multitenantMode": bool(tenants), "tenants": tenants},
            "urls": {
                "openApiMetadata": f"{base}/swagger/v2/swagger.json",
                "tenancy": f"{base}/v2/tenancy",
            },
        }
        return JSONResponse(told)

    async def _register(self, request: Request) -> Response:
        registry, form = self._registry(request), await _form(request)
        if registry is None:
            return _bad_tenant()
        client = form["ClientId"]
        values = (client, hashed(form["ClientSecret"]), _PERMISSIONS, form["DisplayName"])
        async with session(registry) as rows:
            await rows.execute(_REGISTER, *values)
        return JSONResponse({"title": f"Registered client {client} successfully.", "status": 200})

    async def _token(self, request: Request) -> Response:
        registry, form = self._registry(request), await _form(request)
        if registry is None:
            return _bad_tenant()
        client, secret = form["client_id"], form["client_secret"]
        async with session(registry) as rows:
            stored = await rows.fetchval(_SECRET, client)
        if stored is None or hashed(secret, stored) != stored or form["scope"] != FULL_ACCESS:
            return JSONResponse({"error": "invalid_client"}, 401)
        token = admin_api_token(client, issuer=self._issuer)
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 1799})

    async def _vendors(self, request: Request) -> Response:
        if self._registry(request) is None:
            return _bad_tenant()
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, base64.b64decode(ADMIN_API_KEY), ["HS256"], issuer=self._issuer
            )
        except jwt.InvalidTokenError:
            return Response(status_code=401)
        permitted = scheme == "Bearer" and FULL_ACCESS in claims["scope"].split()
        return JSONResponse(VENDORS) if permitted else Response(status_code=403)

    def _registry(self, request: Request) -> str | None:
        several = None not in self._registries
        return self._registries.get(request.headers.get("tenant") if several else None)


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(), strict_parsing=True))


def _bad_tenant() -> Response:
    return JSONResponse(
        {"title": "Validation failed", "errors": {"Tenant": ["Tenant header is missing"]}}, 400
    )


def hashed(secret: str, like: str | None = None) -> str:
    """The secret as OpenIddict stores it, with the salt and the iterations of another such hash."""
    content = base64.b64decode(like) if like else _HEADER.pack(1, 1, _ITERATIONS, 16) + os.urandom(16)
    _, _, iterations, salt_bytes = _HEADER.unpack_from(content)
    salt = content[_HEADER.size :][:salt_bytes]
    key = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, iterations, _KEY_BYTES)
    return base64.b64encode(content[: _HEADER.size] + salt + key).decode()
