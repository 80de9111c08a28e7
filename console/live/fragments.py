"""Fragments that are the same on many open pages: each is made once for all of them.

The fragment depends on its address, on what the client may do and on its tenant, and on nothing else: it has
neither token nor name of the client.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Response

from console.live.feed import ChangeFeed
from console.session import Session, SessionDep

_REMEMBERED = 200
"""Fragments."""

Make = Callable[[], Awaitable[Response]]


class Fragments:
    """The fragments of one tenant, as they are at the latest change.

    Args:
        feed: tells what changes.
    """

    def __init__(self, feed: ChangeFeed) -> None:
        self.feed = feed
        self._made: OrderedDict[tuple[object, ...], asyncio.Task[Response]] = OrderedDict()

    async def shared(self, key: tuple[object, ...], make: Make) -> Response:
        """The fragment with this key, as it was made last unless something has changed since."""
        if not self.feed.is_current:
            return await make()
        current = (self.feed.version, *key)
        making = self._made.get(current)
        if making is None or (making.done() and making.exception() is not None):
            making = self._made[current] = asyncio.ensure_future(make())
            if len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        made = await asyncio.shield(making)
        return Response(made.body, made.status_code, dict(made.headers))


class FragmentsOfRequest:
    """The fragments that may answer one request."""

    def __init__(self, request: Request, session: SessionDep) -> None:
        self._fragments = fragments_of(request, session)
        self._key = (
            (request.url.path, request.url.query),
            request.scope.get("root_path"),
            session.may_act,
        )

    async def shared(self, make: Make) -> Response:
        """The fragment at the request's address, made by `make` if it was not made since the last change."""
        return await self._fragments.shared(self._key, make)


FragmentsDep = Annotated[FragmentsOfRequest, Depends()]


def fragments_of(request: Request, session: Session) -> Fragments:
    """The fragments of the session's tenant in this process."""
    state = request.app.state
    if not hasattr(state, "console_fragments"):
        state.console_fragments = {}
    kept: dict[str, Fragments] = state.console_fragments
    name = session.services.tenant.name
    if name not in kept:
        kept[name] = Fragments(ChangeFeed(session.services.changes))
    return kept[name]
