"""The API in a server process of its own, configured by its environment."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

import httpx

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.settings.settings import Settings
from tests import preloaded
from tests.api.service import NOBODY
from tests.servers import ENCRYPTION_KEY, TOKEN_KEY


def spellings(path: str) -> list[str]:
    """The same path in five spellings of case and slash."""
    return [path, f"{path}/", path.lower(), path.upper(), f"{path.swapcase()}/"]


def environment(settings: Settings, **changes: str | None) -> dict[str, str]:
    """The variables of a server with `settings`, with `changes`; one that becomes None is not set."""
    variables = {
        "PATH": os.defpath,
        "TEMPORAL_ADDRESS": NOBODY,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "ODS_ADMIN_DSN": settings.admin_dsn.get_secret_value(),
        "ODS_MASTER_DSN": settings.master_dsn.get_secret_value(),
        "ODS_RESTORE_AS_SERVICE": "true",  # that nothing is restored otherwise has a test of its own
        "ODS_INSTANCE_CONNECTION_STRING": settings.instance_connection_string.get_secret_value(),
        "ODS_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "ODS_TOKEN_SIGNING_KEY": TOKEN_KEY,
        "ODS_RATE_LIMITING": str(settings.rate_limiting),
        "ODS_REGISTRATION": str(settings.registration),
        "ODS_SHARED_SERVER": str(settings.shared_server),
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


def command(port: int) -> tuple[str, ...]:
    """The module that serves the API, and its arguments."""
    return (
        *("uvicorn", "--factory", "api.app:create_app", "--port", str(port)),
        *("--http", "api.http.server_protocol:TimedProtocol"),
    )


@dataclass(frozen=True)
class ResponseModel:
    """An answer as it comes over the wire; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def read(cls, received: bytes) -> Self:
        head, _, body = received.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        assert int(headers.get("content-length", len(body))) == len(body)
        return cls(int(line.split()[1]), headers, body)

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server that serves."""

    def __init__(self, port: int, process: preloaded.Process, settings: Settings, log: IO[bytes]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.settings = settings
        self._process = process
        self._log = log
        self._endings = {0, -15}

    async def serves(self) -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(self.url)).is_success
            except httpx.TransportError:
                return False

    async def answer(self, request: bytes, seconds: float = 10) -> bytes:
        """What the server sends in answer to the bytes of `request`, until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), seconds)
        writer.close()
        await writer.wait_closed()
        return answer

    async def ask(self, line: str, *headers: str, body: bytes | None = None) -> ResponseModel:
        """The answer to one request: its first line without the version, its headers, its body."""
        length = [] if body is None else [f"Content-Length: {len(body)}"]
        head = [f"{line} HTTP/1.1", "Host: api", "Connection: close", *length, *headers, "", ""]
        return ResponseModel.read(await self.answer("\r\n".join(head).encode("latin-1") + (body or b"")))

    def memory(self) -> int:
        """Bytes of memory that its process has."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def send_signal(self, number: int) -> None:
        """Send it a signal that does not end it."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as the kernel does."""
        self._endings = {-9}
        self._process.kill()
        await asyncio.wait_for(self._process.wait(), 10)

    async def stop(self) -> str:
        """Stop it as an operator does; returns what it has printed."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        await asyncio.wait_for(self._process.wait(), 10)
        assert self._process.returncode in self._endings
        self._log.seek(0)
        return self._log.read().decode()


@asynccontextmanager
async def serving(settings: Settings, *options: str, **changes: str | None) -> AsyncIterator[Server]:
    """A server that serves, with further `options` of uvicorn, and `changes` of its environment."""
    port = free_port()
    with TemporaryFile() as log:
        process = await preloaded.start(
            *command(port), *options, env=environment(settings, **changes), stdout=log, stderr=log
        )
        server = Server(port, process, settings, log)
        try:
            await wait_until(server.serves, 20)
            yield server
        finally:
            await server.stop()
