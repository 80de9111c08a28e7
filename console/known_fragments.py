"""Answering open pages with fragments that are known, before anything else is done for their requests."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from console.live.fragments import known_fragment
from console.page_route import protect


class KnownFragmentsMiddleware:
    """Answers what many open pages ask for at once: to find the endpoint would take most of the time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the fragment if it is known."""
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            request = Request(scope)
            try:
                fragment = await known_fragment(request)
            except Exception:  # noqa: BLE001 - the endpoint meets the same, and says so
                fragment = None
            if fragment is not None:
                protect(fragment)
                answer = fragment
        await answer(scope, receive, send)
