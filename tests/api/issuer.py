"""An OpenID Connect issuer: a real HTTP server that serves its discovery document and its keys."""

import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms
from jwt.utils import base64url_encode

from api.security.tokens import FULL_ACCESS

DISCOVERY = "/realm/.well-known/openid-configuration"
KEYS = "/realm/keys"
TOKEN = "/realm/token"
AUDIENCE = "edfi_admin_api"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def published(key: PrivateKey, algorithm: str, key_id: str = "a-key", **changes: Any) -> dict[str, Any]:
    """The entry of the public key among the issuer's keys."""
    public = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": key_id, **changes}


def resigned(token: str, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    """The token with another algorithm, signed as no library would do it."""
    claims = token.split(".")[1]
    header = encoded(json.dumps({"typ": "JWT", "alg": algorithm, "kid": "a-key"}).encode())
    return f"{header}.{claims}.{encoded(sign(f'{header}.{claims}'.encode()))}"


def resigned_with_the_public_key(token: str) -> str:
    """As an attacker does who hopes that the published key is taken for a shared secret."""
    secret = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return resigned(token, "HS256", lambda content: hmac.digest(secret, content, "sha256"))


def unsigned(token: str) -> str:
    """The token without a signature."""
    return resigned(token, "none", lambda _: b"")


def encoded(content: bytes) -> str:
    """The content in the base64 of tokens."""
    return base64url_encode(content).decode()


class Issuer:
    """An issuer; tests change what it publishes."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/realm"
        self.asked: list[str] = []
        self.delay = 0.0
        self.documents: dict[str, Any] = {
            DISCOVERY: {"issuer": self.url, "jwks_uri": f"http://127.0.0.1:{self.port}{KEYS}"},
            KEYS: {"keys": [published(RSA, "RS256")]},
        }

    def publish(self, *keys: dict[str, Any]) -> None:
        """Have these keys, and no others."""
        self.documents[KEYS] = {"keys": list(keys)}

    def token(
        self,
        key: Any = RSA,
        algorithm: str = "RS256",
        header: Mapping[str, str | None] = MappingProxyType({}),
        **changes: object,
    ) -> str:
        """A valid token with `changes`; a claim or header that becomes None is left out."""
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "a-service",
            "exp": int(time.time()) + 60,
            "scope": f"openid {FULL_ACCESS}",
        }
        changed = {name: value for name, value in (claims | changes).items() if value is not None}
        headers = {name: value for name, value in {"kid": "a-key", **header}.items() if value is not None}
        return jwt.encode(changed, key, algorithm, headers)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve until the end of the block; there are no answers after that."""
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                time.sleep(issuer.delay)
                self._answer(issuer.documents.get(self.path))

            def _answer(self, document: object) -> None:
                content = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(404 if document is None else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self._answer({"access_token": issuer.token()} if self.path == TOKEN else None)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
