"""A reverse proxy with a certificate of its own, as one stands before the API."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ods.embedded.ports import free_port


class Proxy:
    """Passes what it gets by TLS on to a port of this machine.

    Args:
        folder: for its certificate.
        behind: the port.
    """

    def __init__(self, folder: Path, behind: int) -> None:
        self.port = free_port()
        self.certificate = folder / "certificate.pem"
        self._key = folder / "certificate.key"
        self._behind = behind
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def renew(self, days: int) -> None:
        """Use a new certificate, which ends in so many days."""
        made = ("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost")
        files = ("-keyout", str(self._key), "-out", str(self.certificate))
        options = ("-days", str(days), "-addext", "subjectAltName=DNS:localhost")
        subprocess.run((*made, *files, *options), check=True, capture_output=True)  # noqa: S603 - words of our own
        self._tls.load_cert_chain(self.certificate, self._key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the body runs."""
        self.renew(days=90)
        async with await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
