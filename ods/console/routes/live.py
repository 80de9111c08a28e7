"""The stream that tells an open page what has changed."""

import asyncio
import random
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.http.server_protocol import ENDLESS
from api.security.client_states import hear
from ods.console.live.feed import NOTHING, Topics
from ods.console.live.fragments import fragments_of
from ods.console.page_route import signed_in_router
from ods.console.session import Session, SessionDep, has_ended

router = signed_in_router()

_SESSION_SECONDS = 0.5
"""How often is asked whether the session has ended. With the age of the answer, that is known within 5 s."""
_RETRY_MILLISECONDS = 2000
_SPREADS_APART = 10
"""Within how many spreads after a page was told something it is told what changes next."""
_CHANGED, _ENDED = "changed", "ended"


@router.get("/live", response_class=EventSourceResponse)
async def tell_changes(request: Request, session: SessionDep) -> AsyncIterator[ServerSentEvent]:
    """Tell which topics have changed, as long as the page is open and the client signed in."""
    request.scope["state"][ENDLESS] = True
    feed = fragments_of(request, session).feed
    end = asyncio.create_task(_wait_for_end(request, session))
    end.add_done_callback(hear)
    try:
        async with feed.page() as told:
            # Wakes the stream, whatever it waits for.
            end.add_done_callback(lambda _: told.put_nowait(NOTHING))
            yield ServerSentEvent(comment="open", retry=_RETRY_MILLISECONDS)
            while True:
                first = await told.get()
                await _pause(feed.spread, end)
                changed = _all_of(first, told)
                if end.done() and end.exception() is None:
                    yield ServerSentEvent(event=_ENDED, raw_data="")
                    return
                if changed == NOTHING:
                    return
                yield ServerSentEvent(event=_CHANGED, raw_data=" ".join(sorted(changed)))
                await _pause(_SPREADS_APART * feed.spread, end)
    finally:
        end.cancel()


async def _wait_for_end(request: Request, session: Session) -> None:
    while True:
        await asyncio.sleep(_SESSION_SECONDS)
        if await has_ended(request, session):
            return


async def _pause(most: float, end: asyncio.Task[None]) -> None:
    """Wait for another time on each page, of so many seconds at most, or until its session has ended."""
    await asyncio.wait([end], timeout=random.uniform(0, most))  # noqa: S311 - no secret


def _all_of(first: Topics, told: asyncio.Queue[Topics]) -> Topics:
    """Everything that was told since the last time; nothing, if what changes is not known any more."""
    changes = [first]
    while not told.empty():
        changes.append(told.get_nowait())
    return NOTHING if NOTHING in changes else frozenset().union(*changes)
