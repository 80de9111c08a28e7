"""Whether a person may still sign in at the issuer: it is asked every ten minutes, with a refresh token.

The registry has the token encrypted with a key that is made of the session's id, which only the browser has.
"""

import asyncio
import hmac
import json
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import HTTPConnection

from api.tenant_services import Services
from ods.console.issuer import IssuerAwayError, NotIdentifiedError, Renewal, Renewed, SignInIssuer, scope_of
from ods.registry.console_sessions import OpenSession, digest_of

_NONCE_BYTES = 12
_LOOKS_APART_SECONDS = 0.2


@dataclass(frozen=True)
class PersonChecks:
    """The checks of one tenant's sessions.

    Attributes:
        services: those of the tenant.
        issuer: where people sign in; None if none is configured any more.
    """

    services: Services
    issuer: SignInIssuer | None

    @classmethod
    def of(cls, connection: HTTPConnection, services: Services) -> "PersonChecks":
        """The checks, by the issuer that is configured."""
        return cls(services, connection.app.state.sign_in_issuer)

    async def checked(self, session_id: str, found: OpenSession) -> OpenSession | None:
        """The session, once the issuer was asked if that is due; None if its person must sign in again.

        While the issuer is away, the session goes on for a quarter of an hour after it was asked last.
        """
        if found.check.is_due:
            renewal = await self.services.console_sessions.begin_check(digest_of(session_id))
            if renewal is not None:
                # To end because the browser has gone would lose a token that counts once.
                return await asyncio.shield(self._ask(session_id, found, renewal))
        return await self._after_another(session_id) if found.check.is_overdue else found

    async def _ask(self, session_id: str, found: OpenSession, renewal: bytes) -> OpenSession | None:
        digest, sessions = digest_of(session_id), self.services.console_sessions
        try:
            renewed = await self._renewed(session_id, renewal)
        except IssuerAwayError:
            return None if found.check.is_overdue else found
        values = None if renewed is None else renewed.values
        scope = found.identity.scope if values is None else scope_of(self.services.tenant.settings, values)
        if renewed is None or scope is None:
            await sessions.end(digest)
            self.services.session_states.forget(digest)
            return None
        await sessions.end_check(digest, scope, encrypted(session_id, renewed.renewal))
        return await sessions.find(digest)

    async def _renewed(self, session_id: str, renewal: bytes) -> Renewed | None:
        """What the issuer says of the person; None if it refuses, or can no longer be asked."""
        if self.issuer is None:
            return None
        try:
            return await self.issuer.renew(_decrypted(session_id, renewal))
        except (NotIdentifiedError, InvalidTag):
            return None

    async def _after_another(self, session_id: str) -> OpenSession | None:
        """The session, once the request that asks the issuer just now knows; None if none does."""
        while True:
            found = await self.services.console_sessions.find(digest_of(session_id))
            if found is None or not found.check.is_overdue:
                return found
            if not found.check.is_under_way:
                return None
            await asyncio.sleep(_LOOKS_APART_SECONDS)


def encrypted(session_id: str, renewal: Renewal) -> bytes:
    """The renewal, as the registry keeps it."""
    text, nonce = json.dumps([renewal.subject, renewal.token]), os.urandom(_NONCE_BYTES)
    return nonce + _cipher(session_id).encrypt(nonce, text.encode(), None)


def _decrypted(session_id: str, renewal: bytes) -> Renewal:
    nonce, ciphertext = renewal[:_NONCE_BYTES], renewal[_NONCE_BYTES:]
    return Renewal(*json.loads(_cipher(session_id).decrypt(nonce, ciphertext, None)))


def _cipher(session_id: str) -> AESGCM:
    return AESGCM(hmac.digest(session_id.encode(), b"renewal", "sha256"))
