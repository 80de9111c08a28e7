"""The stream that tells an open page what has changed."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.http.server_protocol import ENDLESS
from console.live.feed import NOTHING, Topics
from console.live.fragments import fragments_of
from console.page_route import signed_in_router
from console.session import SessionDep, find_session

router = signed_in_router()

_SESSION_SECONDS = 5
"""How often is asked whether the session has ended."""
_RETRY_MILLISECONDS = 2000
_SPREADS_APART = 2
"""For how many spreads a page is told nothing more: it fetches nothing more so soon."""
_CHANGED, _ENDED = "changed", "ended"


@router.get("/live", response_class=EventSourceResponse)
async def tell_changes(request: Request, session: SessionDep) -> AsyncIterator[ServerSentEvent]:
    """Tell which topics have changed, as long as the page is open and the client signed in.

    First of all, within how many milliseconds the page is to fetch what shows them.
    """
    request.scope["state"][ENDLESS] = True
    feed = fragments_of(request, session).feed
    async with feed.page() as told:
        yield ServerSentEvent(comment="open", retry=_RETRY_MILLISECONDS)
        while True:
            try:
                changed = await asyncio.wait_for(_all_of(told), _SESSION_SECONDS)
            except TimeoutError:
                if await find_session(request) is None:
                    yield ServerSentEvent(event=_ENDED, raw_data="")
                    return
            else:
                if changed == NOTHING:
                    return
                yield ServerSentEvent(event=_CHANGED, raw_data=f"{feed.spread} {' '.join(sorted(changed))}")
                await asyncio.sleep(_SPREADS_APART * feed.spread / 1000)


async def _all_of(told: asyncio.Queue[Topics]) -> Topics:
    """Everything that was told since the last time; nothing, if what changes is not known any more."""
    changes = [await told.get()]
    while not told.empty():
        changes.append(told.get_nowait())
    return NOTHING if NOTHING in changes else frozenset().union(*changes)
