"""Tokens of registered clients, which are valid only as long as their client is."""

import time

from sqlalchemy.exc import SQLAlchemyError

from api.http.problems import explained
from api.security.client_states import FRESH_SECONDS, Standings
from api.security.tokens import KNOWN_SCOPES, Caller, Tokens
from registry.clients.store import Standing

_CLOCK_DIFFERENCE_SECONDS = 10
"""By how much the clocks of two API processes may differ."""


class ClientTokens:
    """Checks our own tokens, and that their client may still have them.

    A token names the generation that its client had; disabling and rotating a client give it another. A token
    without one was issued before there were generations, and counts as long as the client has none.

    Args:
        tokens: verifies our own tokens.
        standings: what holds for each client.
    """

    def __init__(self, tokens: Tokens, standings: Standings) -> None:
        self._tokens = tokens
        self._standings = standings

    async def verify(self, token: str) -> Caller | None:
        """Whom the token speaks for; None if it is not valid, or its client may not have it any more.

        Raises:
            ProblemError: 503, the registry cannot be asked.
        """
        identity = await self._tokens.verify(token)
        if identity is None:
            return None
        try:
            return identity if await self._counts(identity) else None
        except (OSError, SQLAlchemyError) as error:
            raise explained(error) from error

    async def _counts(self, identity: Caller) -> bool:
        now = time.monotonic()
        if _permits(await self._standings.find(identity.client, now - FRESH_SECONDS), identity):
            return True
        # What is remembered may be older than the token, and so may be the generation.
        issued = now - (time.time() - identity.issued_at) + _CLOCK_DIFFERENCE_SECONDS
        return _permits(await self._standings.find(identity.client, min(now, issued)), identity)


def _permits(standing: Standing | None, identity: Caller) -> bool:
    if standing is None or identity.generation != (standing.generation and str(standing.generation)):
        return False
    return identity.scopes & KNOWN_SCOPES <= standing.token_scopes
