"""A cache of the console's sessions, for what open pages fetch by themselves."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic

from api.security.client_states import FRESH_SECONDS, hear
from registry.console_sessions import OpenSession

_WATCHED_SECONDS = 30
"""A session that no page has asked for within this time is asked for no more."""


class SessionStates:
    """Asks the registry for the sessions of all open pages at once, so that many cost it no more than one.

    Args:
        ask: asks the registry for the sessions with these digests; those that have ended are not among them.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        ask: Callable[[Collection[bytes]], Awaitable[Mapping[bytes, OpenSession]]],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._watched: dict[bytes, float] = {}
        self._known: dict[bytes, OpenSession | None] = {}
        self._asked_at = -float("inf")
        self._asking: asyncio.Task[None] | None = None

    async def find(self, digest: bytes) -> OpenSession | None:
        """The session, as it was within the last three seconds; None if it had ended.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry is away.
        """
        now = self._clock()
        self._watched[digest] = now
        while self._asked_at < now - FRESH_SECONDS or digest not in self._known:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._refresh())
                self._asking.add_done_callback(hear)
            await asyncio.shield(self._asking)
        return self._known[digest]

    def forget(self, digest: bytes) -> None:
        """Ask for the session again: it was ended here."""
        self._known.pop(digest, None)

    async def _refresh(self) -> None:
        now = self._clock()
        self._watched = {one: at for one, at in self._watched.items() if now - at < _WATCHED_SECONDS}
        watched = frozenset(self._watched)
        found = await self._ask(watched)
        self._known = {digest: found.get(digest) for digest in watched}
        self._asked_at = now
