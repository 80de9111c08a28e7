"""A false PostgreSQL: for tests and benchmarks of what reads foreign databases.

By itself: `.venv/bin/python -m tests.false_postgres --port 5999 rows`.
"""

import argparse
import asyncio
import ssl
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

_SSL_REQUEST = 80877103
_NAME, _BIGINT, _TEXT, _TEXTS = 19, 20, 25, 1009
"""OIDs of types."""
_MEGABYTE = b"x" * 2**20
_GIGABYTE = 2**30
_CATALOG = (("relname", _NAME), ("columns", _TEXTS))
_ORGANIZATIONS = (
    *(("id", _BIGINT), ("name", _TEXT), ("short_name", _TEXT), ("discriminator", _TEXT)),
    ("parent_id", _BIGINT),
)


class Lie(StrEnum):
    """What the server does."""

    HONEST = "honest"
    """It has one education organization."""
    ROWS = "rows"
    """It sends rows of 1 MB, without end."""
    ROW = "row"
    """It announces a row of 1 GB, and sends it."""
    MANY = "many"
    """It sends education organizations such as others have, without end."""
    SILENT = "silent"
    """It takes connections and does not answer."""
    HTTP = "http"
    """It answers as a web server does."""
    LOGIN = "login"
    """It refuses each password."""
    CODE = "code"
    """It refuses with an SQLSTATE that is none, and would begin another line of a log."""


class FalsePostgres:
    """The server.

    Args:
        lie: what it does.
        tls: its certificate; without, it refuses TLS.

    Attributes:
        connections: how many there have been.
        open: those that there are.
        port: where it serves.
    """

    def __init__(self, lie: Lie, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self._lie = lie
        self._tls = tls
        self.open: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["FalsePostgres"]:
        """Serve while the body runs; `port` 0 is any free one."""

        def accept(reader: StreamReader, writer: StreamWriter) -> None:
            self.connections += 1
            task = asyncio.ensure_future(self._serve(reader, writer))
            self.open.add(task)
            task.add_done_callback(self.open.discard)

        server = await asyncio.start_server(accept, host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.open:
                task.cancel()
            await asyncio.gather(*self.open, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError):
                await self._talk(reader, writer)
        finally:
            writer.close()

    async def _talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._lie is Lie.HTTP:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        if self._lie in {Lie.HTTP, Lie.SILENT}:
            await reader.read()
            return
        while await _first(reader) == _SSL_REQUEST:
            writer.write(b"N" if self._tls is None else b"S")
            if self._tls is not None:
                await writer.start_tls(self._tls)
        if self._lie in {Lie.LOGIN, Lie.CODE}:
            code = b"28P01" if self._lie is Lie.LOGIN else b"\nERROR forged"
            writer.write(_message(b"E", b"SFATAL\0C" + code + b"\0Mrefused\0\0"))
            await writer.drain()
            return
        version = _message(b"S", b"server_version\x0018.0\0")
        writer.write(_message(b"R", bytes(4)) + version + _message(b"K", bytes(8)) + _READY)
        await self._answer_queries(reader, writer)

    async def _answer_queries(self, reader: StreamReader, writer: StreamWriter) -> None:
        catalog = True
        for_parts = {b"P": _message(b"1", b""), b"B": _message(b"2", b""), b"C": _message(b"3", b"")}
        unread = 1
        while (message := await _received(reader))[0] != b"X":
            kind, body = message
            match kind:
                case b"Q":
                    writer.write(_DONE + _READY)
                case b"D":
                    writer.write(_PARAMETERS if catalog else _NO_PARAMETERS)
                    writer.write(_described(_CATALOG if catalog else _ORGANIZATIONS))
                case b"E" if catalog:
                    writer.write(_COLUMNS + _DONE)
                case b"E":
                    if unread:
                        await self._send_organizations(writer)
                    unread = 0
                    writer.write(_DONE)
                case b"S":
                    writer.write(_READY)
                case _:
                    catalog = b"pg_attribute" in body if kind == b"P" else catalog
                    writer.write(for_parts.get(kind, b""))
            await writer.drain()

    async def _send_organizations(self, writer: StreamWriter) -> None:
        number = 1
        if self._lie is Lie.ROW:
            writer.write(b"D" + struct.pack("!ihi", _GIGABYTE, 5, _GIGABYTE - 100))
        while True:
            match self._lie:
                case Lie.ROW:
                    writer.write(_MEGABYTE)
                case Lie.ROWS:
                    writer.write(_organization(number, _MEGABYTE))
                case Lie.MANY:
                    numbers = range(number, number + 1000)
                    writer.write(b"".join(_organization(one, b"A false school") for one in numbers))
                case _:
                    writer.write(_organization(number, b"A false school"))
                    return
            number += 1000
            await writer.drain()


_READY = b"Z\0\0\0\x05I"


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


_DONE = _message(b"C", b"SELECT 1\0")


async def _first(reader: StreamReader) -> int:
    """The code of a message without a kind: a request for TLS, or the version of the protocol."""
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    await reader.readexactly(length - 8)
    return int(code)


async def _received(reader: StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


def _described(columns: Sequence[tuple[str, int]]) -> bytes:
    fields = [name.encode() + struct.pack("!bihihih", 0, 0, 0, oid, -1, -1, 0) for name, oid in columns]
    return _message(b"T", struct.pack("!h", len(fields)) + b"".join(fields))


def _row(*values: bytes | None) -> bytes:
    parts = [struct.pack("!i", -1) if one is None else struct.pack("!i", len(one)) + one for one in values]
    return _message(b"D", struct.pack("!h", len(parts)) + b"".join(parts))


def _array(names: Sequence[bytes]) -> bytes:
    parts = [struct.pack("!i", len(name)) + name for name in names]
    return struct.pack("!iiiii", 1, 0, _TEXT, len(names), 1) + b"".join(parts)


_PARAMETERS = _message(b"t", struct.pack("!hi", 1, _TEXTS))
_NO_PARAMETERS = _message(b"t", struct.pack("!h", 0))
_COLUMNS = _row(b"educationorganization", _array((b"educationorganizationid", b"nameofinstitution")))


def _organization(number: int, name: bytes) -> bytes:
    return _row(struct.pack("!q", number), name, None, b"edfi.School", None)


async def _main(lie: Lie, port: int, report: Callable[[str], object]) -> None:
    async with FalsePostgres(lie).serving(port=port) as server:
        report(f"127.0.0.1:{server.port}")
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lie", type=Lie, choices=list(Lie))
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(given.lie, given.port, lambda text: print(text, flush=True)))  # noqa: T201 - its output
