"""A cache of the console's sessions: those that exist, and that requests have asked for lately."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from time import monotonic

from starlette.requests import HTTPConnection

from api.security.client_states import FRESH_SECONDS, hear
from ods.registry.console_sessions import OpenSession

_WATCHED_SECONDS = 30
"""A session that no page has asked for within this time is asked for no more."""


@dataclass
class _Watched:
    session: OpenSession
    asked_at: float
    wanted_at: float


class SessionStates:
    """Asks the registry for the sessions of all open pages at once, so that many cost it no more than one.

    A digest that is not known is looked up by itself. If there is no such session, nothing is kept: a client
    that sends any number of invented ids costs the others nothing.

    Args:
        ask: asks the registry for one session; None if it has ended, or never was.
        ask_all: asks it for the sessions with these digests; those that have ended are not among them.
        admit: lets a request pass that names a session which is not known, or refuses it.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        ask: Callable[[bytes], Awaitable[OpenSession | None]],
        ask_all: Callable[[Collection[bytes]], Awaitable[Mapping[bytes, OpenSession]]],
        admit: Callable[[HTTPConnection], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ask = ask
        self._ask_all = ask_all
        self._admit = admit
        self._clock = clock
        self._watched: dict[bytes, _Watched] = {}
        self._asking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._watched)

    async def find(self, connection: HTTPConnection, digest: bytes) -> OpenSession | None:
        """The session, as it was within the last three seconds; None if it had ended.

        Raises:
            ProblemError: 429, the address has asked for unknown sessions too often.
            sqlalchemy.exc.SQLAlchemyError: the registry is away.
        """
        if digest in self._watched:
            return await self.find_again(digest)
        return await self.look_up(connection, digest)

    async def look_up(self, connection: HTTPConnection, digest: bytes) -> OpenSession | None:
        """The session, as it is now; None if it has ended.

        Raises:
            ProblemError: 429, the address has asked for unknown sessions too often.
            sqlalchemy.exc.SQLAlchemyError: the registry is away.
        """
        if digest not in self._watched:
            self._admit(connection)
        now = self._clock()
        session = await self._ask(digest)
        if session is None:
            self.forget(digest)
        else:
            self._forget_unwanted(now)
            self._watched[digest] = _Watched(session, now, now)
        return session

    async def find_again(self, digest: bytes) -> OpenSession | None:
        """A session that was found before, as it was within the last three seconds; None if it had ended.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry is away.
        """
        now = self._clock()
        while (watched := self._watched.get(digest)) is not None:
            watched.wanted_at = now
            if watched.asked_at >= now - FRESH_SECONDS:
                return watched.session
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._refresh())
                self._asking.add_done_callback(hear)
            await asyncio.shield(self._asking)
        return None

    def forget(self, digest: bytes) -> None:
        """Count the session as unknown: it has ended."""
        self._watched.pop(digest, None)

    async def _refresh(self) -> None:
        now = self._clock()
        self._forget_unwanted(now)
        asked = frozenset(self._watched)
        found = await self._ask_all(asked)
        for digest in asked & self._watched.keys():
            if digest in found:
                self._watched[digest].session = found[digest]
                self._watched[digest].asked_at = now
            else:
                self.forget(digest)

    def _forget_unwanted(self, now: float) -> None:
        for digest, watched in list(self._watched.items()):
            if now - watched.wanted_at >= _WATCHED_SECONDS:
                self.forget(digest)
