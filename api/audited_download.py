"""Downloads whose beginning and end are in the audit trail."""

import logging
from collections.abc import AsyncGenerator
from dataclasses import replace

from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from api.http.server_protocol import LOST
from api.middleware.audit import entry_of
from api.tenant_services import services_of
from ods.observability.logs import fault_name

_logger = logging.getLogger(__name__)


class AuditedDownload(StreamingResponse):
    """A file to be downloaded.

    It does not begin unless that is written down. The entry at its end says how many bytes the network took,
    and whether these were all: the client may have broken off, or what was read may have been found to be
    damaged.

    Args:
        chunks: what the file holds; closed in the end.
        size_bytes: how much that is.
        filename: what a browser calls it: letters, digits, dots and hyphens.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], size_bytes: int, filename: str) -> None:
        headers = {
            "Content-Length": str(size_bytes),
            "Content-Disposition": f'attachment; filename="{filename}"',
        }
        # If the client has gone, the answer does not close what it has read from.
        closing = BackgroundTask(chunks.aclose)
        super().__init__(chunks, 200, headers, "application/octet-stream", closing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        connection = HTTPConnection(scope)
        recorder, entry = services_of(connection).recorder, entry_of(connection, self.status_code)
        await recorder.require(replace(entry, title="The download begins"))
        sent_bytes, is_whole = 0, False

        async def count(message: Message) -> None:
            nonlocal sent_bytes, is_whole
            await send(message)
            if message["type"] == "http.response.body" and not scope["state"].get(LOST):
                sent_bytes += len(message["body"])
                is_whole = not message["more_body"]

        try:
            await super().__call__(scope, receive, count)
        finally:
            title = "The download is complete" if is_whole else "The download was broken off"
            try:
                await recorder.require(replace(entry, title=title, sent_bytes=sent_bytes))
            except Exception as error:  # noqa: BLE001 - the log has the entry
                _logger.warning("The end of a download was not written to the trail: %s", fault_name(error))
