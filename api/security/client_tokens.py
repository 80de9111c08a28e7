"""Tokens of registered clients, which are valid only as long as their client is."""

import time
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from api.http.problems import explained
from api.security.client_states import FRESH_SECONDS, Standings
from api.security.tokens import KNOWN_SCOPES, Caller, Tokens
from ods.registry.clients.store import Standing

_CLOCK_DIFFERENCE_SECONDS = 10
"""By how much the clocks of two API processes may differ."""


class ClientTokens:
    """Checks our own tokens, and that their client may still have them.

    A token names the generation that its client had; disabling and rotating a client give it another. Clients
    that an Admin API added before the first `ods migrate` have none: their tokens name none, and count until
    the client gets one.

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
        standing = await permitting(self._standings, identity, partial(_permits, identity))
        return None if standing is None else identity


async def permitting(
    standings: Standings, identity: Caller, permits: Callable[[Standing], bool]
) -> Standing | None:
    """What holds for the client, if it may have its token; None otherwise.

    Args:
        standings: what holds for each client.
        identity: what the token says.
        permits: whether the client may have the token, if this holds for it.

    Raises:
        ProblemError: 503, the registry cannot be asked.
    """
    now = time.monotonic()
    # What is remembered may be older than the token, and so may be the generation.
    issued = now - (time.time() - identity.issued_at) + _CLOCK_DIFFERENCE_SECONDS
    try:
        for since in (now - FRESH_SECONDS, min(now, issued)):
            standing = await standings.find(identity.client, since)
            if standing is not None and permits(standing):
                return standing
    except (OSError, SQLAlchemyError) as error:
        raise explained(error) from error
    return None


def _permits(identity: Caller, standing: Standing) -> bool:
    if identity.generation != (standing.generation and str(standing.generation)):
        return False
    return identity.scopes & KNOWN_SCOPES <= standing.token_scopes
