"""A real S3 server as a process, and what is in it."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.programs import process
from ods.programs.process import Command
from tests.secret_search import as_secret
from tests.servers import NUMBERS, binary

_REFUSE_FROM_NOW, _REFUSE_LATER = "0", "1000000000"
"""After how many requests the server checks whose they are."""


@dataclass(frozen=True)
class S3Server:
    """The server; `address` may lead to it through a proxy."""

    port: int
    address: str

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "access-key-for-tests",
            "AWS_SECRET_ACCESS_KEY": as_secret("secret-key-for-tests"),
        }

    async def make_bucket(self) -> str:
        name = f"bucket-{next(NUMBERS)}"
        await self._call("PUT", name)
        return name

    async def keys(self, bucket: str) -> list[str]:
        return re.findall(r"<Key>(.*?)</Key>", await self._call("GET", bucket))

    async def unfinished_uploads(self, bucket: str) -> int:
        return (await self._call("GET", f"{bucket}?uploads")).count("<UploadId>")

    async def refuse_credentials(self) -> None:
        await self._call("POST", "moto-api/reset-auth", _REFUSE_FROM_NOW)

    async def accept_credentials(self) -> None:
        await self._call("POST", "moto-api/reset-auth", _REFUSE_LATER)

    async def _call(self, verb: str, path: str, content: str = "") -> str:
        async with httpx.AsyncClient() as client:
            response = await client.request(verb, f"http://127.0.0.1:{self.port}/{path}", content=content)
        return response.raise_for_status().text


@asynccontextmanager
async def s3_server(log: Path) -> AsyncIterator[S3Server]:
    port = free_port()
    arguments = (binary("moto_server"), "--host", "127.0.0.1", "--port", str(port))
    command = Command("moto_server", arguments, {"PATH": "", "HOME": str(log.parent)})
    running = await process.start(command, log)
    try:
        await wait_until(lambda: _answers(port), 30)
        yield S3Server(port, f"http://127.0.0.1:{port}")
    finally:
        await process.stop(running, command)


async def _answers(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/moto-api/")).is_success
        except httpx.TransportError:
            return False
