"""Headers that every answer has: browsers run nothing of it, keep nothing, and come back over TLS alone."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.protective_headers import PROTECTIVE_HEADERS

_OVER_TLS = (*PROTECTIVE_HEADERS, (b"strict-transport-security", b"max-age=31536000; includeSubDomains"))


class ProtectionMiddleware:
    """Adds the headers that an answer has not; pages of the console and of the documentation have others.

    Whether the request came over TLS, a proxy says that uvicorn was told to believe.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _OVER_TLS if scope["scheme"] == "https" else PROTECTIVE_HEADERS

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [*message["headers"]]
                names = {name for name, _ in given}
                message["headers"] = given + [header for header in headers if header[0] not in names]
            await send(message)

        await self._app(scope, receive, answer)
