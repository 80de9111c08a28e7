"""An issuer with which people sign in: it gives codes, and ID tokens for them."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from pydantic import SecretStr

from tests.api.issuer import DISCOVERY, KEYS, TOKEN, Issuer, encoded
from tests.secret_search import as_secret

AUTHORIZE = "/realm/authorize"
END_SESSION = "/realm/end-session"
CLIENT_SECRET = as_secret("a secret with ä, : and %")
PERSON = {"sub": "4f1c", "preferred_username": "alice"}
PAGE = """<!DOCTYPE html><html lang="en"><title>Accounts</title>
<form method="post"><button>Go on as alice</button></form>"""


class SignInIssuer(Issuer):
    """The issuer; it gives a code to each browser that asks, and signs in the same person.

    Attributes:
        secret: that of the console; None if the console is a public client.
        claims: of the ID tokens, beside those that each has; or arguments of `Issuer.token`.
        alter: makes of an ID token what is sent instead.
        refreshes: whether it gives refresh tokens, each of which counts once.
        renewed: how often it was asked with one.
        refuses: whether it refuses them, as those of an account that was disabled.
        says_again: what it says of a person again when it is asked with one; None for no ID token.
        signed_out: the queries of browsers that have come to sign out.
    """

    def __init__(self) -> None:
        super().__init__()
        origin = f"http://localhost:{self.port}"  # another site than 127.0.0.1, for browsers
        self.url = f"{origin}/realm"
        self.documents[DISCOVERY] = {
            "issuer": self.url,
            "jwks_uri": f"{origin}{KEYS}",
            "authorization_endpoint": f"{origin}{AUTHORIZE}",
            "token_endpoint": f"{origin}{TOKEN}",
            "end_session_endpoint": f"{origin}{END_SESSION}",
        }
        self.secret: str | None = CLIENT_SECRET
        self.claims: dict[str, Any] = {}
        self.alter: Callable[[str], str] = str
        self.refreshes = True
        self.renewed = 0
        self.refuses = False
        self.says_again: dict[str, Any] | None = {}
        self.signed_out: list[dict[str, str]] = []
        self._codes: dict[str, Mapping[str, str]] = {}
        self._refresh_tokens: set[str] = set()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a console that people sign in to here, with full access for `ods-admins`."""
        return {
            "oidc_insecure": True,
            "console_oidc_issuer": self.url,
            "console_oidc_client_secret": SecretStr(CLIENT_SECRET),
            "console_oidc_full_access": "ods-admins",
        }

    @property
    def discovery(self) -> dict[str, Any]:
        """The discovery document, to be changed."""
        document: dict[str, Any] = self.documents[DISCOVERY]
        return document

    def authorize(self, address: str) -> str:
        """The address to which a browser is sent back that came to `address`, with a code."""
        asked = dict(parse_qsl(urlsplit(address).query))
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def exchange(self, form: Mapping[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The answer of the token endpoint."""
        if self._client(form, authorization) != ("ods-console", self.secret):
            return 401, {"error": "invalid_client"}
        if form["grant_type"] == "refresh_token":
            return self._renew(form["refresh_token"])
        asked = self._codes.pop(form["code"], None)  # a code counts once
        challenge = encoded(sha256(form["code_verifier"].encode()).digest())
        proven = {"redirect_uri": form["redirect_uri"], "code_challenge": challenge}
        if asked is None or form["grant_type"] != "authorization_code" or not proven.items() <= asked.items():
            return 400, {"error": "invalid_grant"}
        claims = {"aud": "ods-console", "nonce": asked["nonce"], "scope": None, **PERSON, **self.claims}
        return 200, {"id_token": self.alter(self.token(**claims)), **self._refresh_token()}

    def _renew(self, token: str) -> tuple[int, dict[str, Any]]:
        self.renewed += 1
        time.sleep(self.delay)
        if self.refuses or token not in self._refresh_tokens:
            return 400, {"error": "invalid_grant"}
        self._refresh_tokens.discard(token)
        if self.says_again is None:
            return 200, self._refresh_token()
        claims = {"aud": "ods-console", "scope": None, **PERSON, **self.claims, **self.says_again}
        return 200, {"id_token": self.token(**claims), **self._refresh_token()}

    def _refresh_token(self) -> dict[str, str]:
        if not self.refreshes:
            return {}
        token = as_secret(secrets.token_urlsafe(16))
        self._refresh_tokens.add(token)
        return {"refresh_token": token}

    @staticmethod
    def _client(form: Mapping[str, str], authorization: str) -> tuple[str, str | None]:
        if not authorization:
            return form["client_id"], form.get("client_secret")
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return unquote_plus(name), unquote_plus(secret)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer, documents = self, super()._handler()

        class Handler(documents):  # type: ignore[misc, valid-type]  # made for each issuer
            def do_GET(self) -> None:  # noqa: N802 - named by the standard library
                address = urlsplit(self.path)
                if address.path == AUTHORIZE:
                    self._send(200, PAGE.encode(), "text/html")
                elif address.path == END_SESSION:
                    issuer.signed_out.append(asked := dict(parse_qsl(address.query)))
                    self._lead(asked["post_logout_redirect_uri"])
                else:
                    super().do_GET()

            def do_POST(self) -> None:  # noqa: N802 - named by the standard library
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                if urlsplit(self.path).path == AUTHORIZE:
                    self._lead(issuer.authorize(self.path))
                else:
                    status, answer = issuer.exchange(
                        dict(parse_qsl(body)), self.headers.get("authorization", "")
                    )
                    self._send(status, json.dumps(answer).encode(), "application/json")

            def _lead(self, address: str) -> None:
                self.send_response(303)
                self.send_header("Location", address)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, status: int, content: bytes, media_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler
