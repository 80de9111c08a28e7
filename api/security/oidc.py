"""Tokens of an OpenID Connect issuer, checked with the keys that it publishes."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Self

import httpx
import jwt

from api.http.problems import ProblemError
from api.security.rate_limit import RateLimiter
from api.security.tokens import ACCESS_TOKEN_TYPES, Caller
from ods.observability.logs import fault_name
from ods.settings.settings import AnySettings, uses_tls

_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""What each type of public key signs with. Never `none`, and nothing that takes the key for a secret."""

_CLAIMS = ["iss", "aud", "sub", "exp"]
_TYPES = ACCESS_TOKEN_TYPES | {"jwt"}
"""What an access token says that it is, in any case of letters (RFC 9068, 4); most issuers say `JWT`.

Tokens for something else say so, as logout tokens and proofs of possession do.
"""
_LEEWAY_SECONDS = 30  # the issuer has a clock of its own

_FRESH_SECONDS = 600  # after that, a key that the issuer has withdrawn is not accepted any more
_TRUSTED_SECONDS = 3600  # how long the keys count if the issuer cannot be asked again
_TIMEOUT_SECONDS = 5
_LARGEST_DOCUMENT = 1024 * 1024  # bytes; a document of the issuer takes some thousands

INVALID = (jwt.PyJWTError, RecursionError)
"""What is raised for a token that is not valid: its header is JSON, nested as deeply as the sender likes."""

_Key = dict[str, Any]

_logger = logging.getLogger(__name__)


class IssuerKeys:
    """The public keys of an issuer: fetched when one is needed, and remembered.

    A key id that is not known makes it fetch them, but only so often: any sender can make up a key id.

    Args:
        issuer: its address.
        jwks_url: where the keys are; without it, the issuer's discovery document says.
        insecure: whether what the issuer says may come without TLS.
    """

    def __init__(self, issuer: str, jwks_url: str | None, *, insecure: bool) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._insecure = insecure
        self._keys: list[_Key] = []
        self._fetched_at = -math.inf
        self._away = False
        self._asking: asyncio.Task[None] | None = None
        self._limiter = RateLimiter(burst=3, interval=5)

    async def find(self, key_id: str | None, algorithm: str) -> _Key | None:
        """The key of this id that signs with the algorithm; None if the issuer has no such key.

        Raises:
            ProblemError: 503, the issuer cannot be asked.
        """
        key = self._known(key_id, algorithm)
        if key is None or not self._is_younger_than(_FRESH_SECONDS):
            asking = self._ask()
            if key is None or not self._away:  # with a known key, no request waits again
                await asyncio.wait([asking])
                key = self._known(key_id, algorithm)
        if self._away and (key is None or not self._is_younger_than(_TRUSTED_SECONDS)):
            raise ProblemError.unavailable("The issuer of the tokens cannot be reached")
        return key

    def _is_younger_than(self, seconds: float) -> bool:
        return monotonic() - self._fetched_at < seconds

    def _known(self, key_id: str | None, algorithm: str) -> _Key | None:
        """The only key that may be meant; an issuer with one key need not name it."""
        meant = [
            key
            for key in self._keys
            if key_id in (None, key.get("kid"))
            and algorithm in _ALGORITHMS.get(str(key.get("kty")), ())
            and key.get("alg", algorithm) == algorithm
            and key.get("use", "sig") == "sig"
        ]
        return meant[0] if len(meant) == 1 else None

    def _ask(self) -> asyncio.Task[None]:
        """Ask the issuer for its keys, once for all who wait for them; or not, if it was asked too often."""
        if self._asking is None or (self._asking.done() and not self._limiter.wait("")):
            self._asking = asyncio.create_task(self._refresh())
        return self._asking

    async def _refresh(self) -> None:
        try:
            self._keys = await self._fetch()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the issuer, its keys are not to be had
            _logger.warning("The keys of %s cannot be fetched: %s", self._issuer, fault_name(error))
            self._away = True
        else:
            self._away, self._fetched_at = False, monotonic()

    async def _fetch(self) -> list[_Key]:
        async with issuer_client() as client:
            address = self._jwks_url or await self._discovered(client)
            keys = (await document(client, address, insecure=self._insecure)).get("keys")
        if not isinstance(keys, list):
            raise ValueError("The document has no keys")  # noqa: TRY004 - so is all else that is wrong with it
        return [key for key in keys if isinstance(key, dict)]

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        return str((await discovery(client, self._issuer, insecure=self._insecure)).get("jwks_uri"))


@asynccontextmanager
async def issuer_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client for what an issuer is asked, all of it within five seconds.

    Raises:
        TimeoutError: the issuer took longer.
    """
    async with httpx.AsyncClient() as client, asyncio.timeout(_TIMEOUT_SECONDS):
        yield client


async def discovery(client: httpx.AsyncClient, issuer: str, *, insecure: bool) -> dict[str, Any]:
    """The issuer's discovery document.

    Raises:
        ValueError: it is another issuer's, or as `document` says.
        httpx.HTTPError: the issuer cannot be reached, or answers with an error.
    """
    address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    found = await document(client, address, insecure=insecure)
    if found.get("issuer") != issuer:
        raise ValueError("The document is another issuer's")
    return found


async def document(
    client: httpx.AsyncClient,
    address: str,
    *,
    insecure: bool,
    form: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON object that an issuer has at `address`, or answers to a form there.

    Args:
        client: asks for it.
        address: where it is.
        insecure: whether it may come without TLS.
        form: what is sent; None to ask for what is there.
        auth: name and password for HTTP Basic, if the issuer wants them.

    Raises:
        ValueError: it comes without TLS, is too large, or is no JSON object.
        httpx.HTTPError: the issuer cannot be reached, or answers with an error.
    """
    if not (insecure or uses_tls(address)):
        raise ValueError("The document is not protected on its way")
    found = json.loads(await _bounded(client, address, form, auth))
    if not isinstance(found, dict):
        raise ValueError("The document is no JSON object")  # noqa: TRY004 - so is all else that is wrong with it
    return found


async def _bounded(
    client: httpx.AsyncClient, address: str, form: Mapping[str, str] | None, auth: tuple[str, str] | None
) -> bytes:
    """What is at `address`, as it was sent: nothing grows while it is decompressed.

    Raises:
        ValueError: it is too large.
    """
    body, method = bytearray(), "GET" if form is None else "POST"
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with client.stream(method, address, headers=headers, data=form, auth=auth) as answer:
        async for piece in answer.raise_for_status().aiter_raw():
            body += piece
            if len(body) > _LARGEST_DOCUMENT:
                raise ValueError("The document is too large")
    return bytes(body)


class IssuerTokens:
    """Checks tokens of an OpenID Connect issuer.

    Args:
        keys: the issuer's keys.
        issuer: what `iss` must be.
        audience: what `aud` must name.
        names_tenant: whether an access token must name its tenant.
    """

    def __init__(self, keys: IssuerKeys, issuer: str, audience: str, *, names_tenant: bool = False) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._names_tenant = names_tenant

    @classmethod
    def from_settings(cls, settings: AnySettings) -> Self | None:
        """What checks the tokens of the issuer that is configured; None if there is none."""
        if settings.oidc_issuer is None:
            return None
        keys = IssuerKeys(settings.oidc_issuer, settings.oidc_jwks_url, insecure=settings.oidc_insecure)
        return cls(keys, settings.oidc_issuer, settings.oidc_audience, names_tenant=settings.multi_tenant)

    async def verify(self, token: str) -> Caller | None:
        """Whom the access token speaks for.

        None if it is not the issuer's, changed, too old, for another audience, no access token, or names no
        tenant where there are several.

        Raises:
            ProblemError: 503, the issuer cannot be asked for its keys.
        """
        try:
            type_ = str(jwt.get_unverified_header(token).get("typ"))
            claims = await self.claims(token) if type_.lower() in _TYPES else None
        except INVALID:
            return None
        if claims is None or (self._names_tenant and "tenant" not in claims):
            return None
        return Caller.of(claims)

    async def claims(self, token: str) -> dict[str, Any]:
        """What the token says.

        Raises:
            jwt.PyJWTError, RecursionError: it is not the issuer's, changed, too old, or another audience's.
            ProblemError: 503, the issuer cannot be asked for its keys.
        """
        header = jwt.get_unverified_header(token)
        algorithm = str(header.get("alg"))
        if not any(algorithm in algorithms for algorithms in _ALGORITHMS.values()):
            raise jwt.InvalidAlgorithmError
        key = await self._keys.find(header.get("kid"), algorithm)
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            jwt.PyJWK(key, algorithm),
            [algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": _CLAIMS, "enforce_minimum_key_length": True},
        )
