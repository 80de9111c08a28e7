"""The status that a request is answered with, for middleware that notes it."""

from http import HTTPStatus

from starlette.types import Message, Send


class WatchedSend:
    """Passes an answer on, and knows its status.

    Attributes:
        status: 500 until the answer begins: if it never does, the server answers so.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
