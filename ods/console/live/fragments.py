"""Fragments that are the same on many open pages: each is made once for all of them.

The fragment depends on its address, on what the client may do and on its tenant, and on nothing else: its
template cannot reach the session. Its buttons send the form `act` of the page, which has the token.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request, Response

from ods.console.attention import attention_of
from ods.console.live.feed import ChangeFeed
from ods.console.page import render_shared
from ods.console.session import LIVE_HEADER, Session, SessionDep, find_session

_REMEMBERED = 200
"""Fragments."""

Make = Callable[[], Awaitable[Response]]
Shown = Mapping[str, object]
"""What a fragment shows, by the names in its template."""
Find = Callable[[], Awaitable[Shown]]


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
        return _again(await asyncio.shield(making))

    def known(self, key: tuple[object, ...]) -> Response | None:
        """The fragment with this key; None if it was not made since something has changed."""
        making = self._made.get((self.feed.version, *key)) if self.feed.is_current else None
        if making is None or not making.done() or making.exception() is not None:
            return None
        return _again(making.result())


class FragmentsOfRequest:
    """The fragments that may answer one request."""

    def __init__(self, request: Request, session: SessionDep) -> None:
        self._request = request
        self._may_act = session.may_act
        self._fragments = fragments_of(request, session)
        self._key = _key(request, session)

    async def shared(self, template: str, find: Find, page: str | None = None) -> Response:
        """The fragment at the request's address, made anew if something has changed since it was made.

        Args:
            template: the fragment's template.
            find: finds what the template shows.
            page: the address of the page with this fragment, for the browser to show from now on.
        """

        async def make() -> Response:
            shown = await find()
            made = render_shared(self._request, template, may_act=self._may_act, context=shown)
            if page is not None:
                made.headers["HX-Replace-Url"] = page
            return made

        return await self._fragments.shared(self._key, make)


async def known_fragment(request: Request) -> Response | None:
    """The fragment that an open page asks for, if it is known; 401 without content if no client is signed in.

    None if it must be made, or if this is no request of an open page.

    Raises:
        ProblemError: 429, the address has sent cookies of unknown sessions too often.
    """
    if request.method != "GET" or LIVE_HEADER not in request.headers:
        return None
    session = await find_session(request)
    if session is None:  # it is looked up no second time
        return Response(status_code=HTTPStatus.UNAUTHORIZED)
    return fragments_of(request, session).known(_key(request, session))


FragmentsDep = Annotated[FragmentsOfRequest, Depends()]


def fragments_of(request: Request, session: Session) -> Fragments:
    """The fragments of the session's tenant in this process."""
    state = request.app.state
    if not hasattr(state, "console_fragments"):
        state.console_fragments = {}
    kept: dict[str, Fragments] = state.console_fragments
    name = session.services.tenant.name
    if name not in kept:
        services = session.services
        kept[name] = Fragments(ChangeFeed(services.changes, partial(attention_of, services)))
    return kept[name]


def _key(request: Request, session: Session) -> tuple[object, ...]:
    """All that the fragment depends on, beside its tenant."""
    address = (request.url.path, request.url.query)
    return address, request.scope.get("root_path"), session.may_act


def _again(made: Response) -> Response:
    return Response(made.body, made.status_code, dict(made.headers))
