"""Answering open pages before anything else is done for their requests, where that is possible."""

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import ProblemError
from ods.console.live.fragments import known_fragment
from ods.console.page_route import protect


class KnownFragmentsMiddleware:
    """Answers what many open pages ask for at once, and refuses those of no session.

    To find the endpoint would take most of the time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the fragment if it is known, or with 401 or 429 if the session is not."""
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            request = Request(scope)
            try:
                fragment = await known_fragment(request)
            except ProblemError as limit:  # the open page asks again, and shows no answer
                fragment = Response(status_code=limit.status, headers=limit.headers)
            except Exception:  # noqa: BLE001 - the endpoint meets the same, and says so
                fragment = None
            if fragment is not None:
                protect(fragment)
                answer = fragment
        await answer(scope, receive, send)
