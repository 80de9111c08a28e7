"""Tokens of an Admin API that shares `adminapi.applications` with this service: its clients are ours."""

from dataclasses import replace
from datetime import UTC
from functools import partial

import jwt

from api.security.client_states import Standings
from api.security.client_tokens import permitting
from api.security.oidc import INVALID
from api.security.tokens import ACCESS_TOKEN_TYPES, FULL_ACCESS, READ_ONLY, Caller, TokenVerifier, words
from ods.registry.clients.credentials import BACKUP_DOWNLOAD, LEEWAY_SECONDS, PERSON_PREFIX
from ods.registry.clients.store import Standing
from ods.settings.settings import AnySettings

_ALGORITHM = "HS256"
_CLAIMS = ["iss", "sub", "iat", "exp"]


class AdminApiTokens:
    """Checks tokens of the Admin API for one tenant, and has another verifier check those of others.

    The Admin API's tokens name no tenant. They count for a tenant in whose registry their client is.

    Args:
        settings: have the Admin API's issuer and keys.
        tenant: the tenant.
        standings: what holds for each of its clients.
        others: verifies the tokens of other issuers.
    """

    def __init__(
        self, settings: AnySettings, tenant: str, standings: Standings, others: TokenVerifier
    ) -> None:
        self._issuers = settings.admin_api_issuers
        self._keys = settings.admin_api_keys
        self._tenant = tenant
        self._standings = standings
        self._others = others

    async def verify(self, token: str) -> Caller | None:
        """Whom the token speaks for; None if it is not valid, or its client may not have it.

        Raises:
            ProblemError: 503, it cannot be verified now.
        """
        # A claim that is not verified chooses the verifier, and nothing else.
        if _claimed_issuer(token) not in self._issuers:
            return await self._others.verify(token)
        identity = self._identity(token)
        if identity is None:
            return None
        standing = await permitting(self._standings, identity, partial(_permits, identity))
        return None if standing is None else _restricted(identity, standing)

    def _identity(self, token: str) -> Caller | None:
        """Whom the token names, with the scopes that it names; None if the Admin API has not issued it."""
        for key in self._keys:
            try:
                return self._verified(token, key)
            except INVALID:
                continue
        return None

    def _verified(self, token: str, key: bytes) -> Caller:
        found = jwt.decode_complete(
            token,
            key,
            [_ALGORITHM],
            issuer=self._issuers,
            leeway=LEEWAY_SECONDS,
            options={"require": _CLAIMS, "enforce_minimum_key_length": True},
        )
        claims = found["payload"]
        if str(found["header"].get("typ")).lower() not in ACCESS_TOKEN_TYPES:
            raise jwt.InvalidTokenError
        if "aud" in claims:  # whatever it names, the token is for another service
            raise jwt.InvalidTokenError
        if claims["sub"].lower().startswith(PERSON_PREFIX):  # the trail would take it for a person
            raise jwt.InvalidTokenError
        return Caller(
            client=claims["sub"],
            scopes=words(claims.get("scope")),
            tenant=self._tenant,
            issued_at=int(claims["iat"]),
        )


def _claimed_issuer(token: str) -> object:
    """The issuer that the token names; None if it is no token."""
    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss")
    except INVALID:
        return None


def _permits(identity: Caller, standing: Standing) -> bool:
    """Whether the token was issued since its client was disabled, or got its secret.

    It names the second in which that was, so one of the same second does not count.
    """
    since = standing.tokens_since
    return since is None or identity.issued_at > since.replace(tzinfo=UTC).timestamp()


def _restricted(identity: Caller, standing: Standing) -> Caller:
    """The caller with those scopes of its token that its client has here.

    An Admin API knows no scope for downloads. So full access includes them, for a client that may download.
    """
    included = {READ_ONLY, BACKUP_DOWNLOAD} if FULL_ACCESS in identity.scopes else frozenset[str]()
    return replace(identity, scopes=(identity.scopes | included) & standing.token_scopes)
