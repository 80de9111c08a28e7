"""What flows between a child process and this one: through pipes, and a thread that may change it."""

import asyncio
import os
import shutil
import sys
from asyncio.streams import FlowControlMixin
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from fcntl import fcntl
from io import BufferedReader, BufferedWriter, FileIO
from typing import BinaryIO, TypeAlias

Transform: TypeAlias = Callable[[BinaryIO, BinaryIO], None]
"""Reads its first argument to the end, and writes what it makes of it to the second."""

_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
"""Of Linux; the module `fcntl` has it there only."""


class Channel:
    """What is written to one end arrives at the other.

    Attributes:
        writing: the end that is written to.
        reading: the end that is read from. The end that a child process has been given is closed here, so
            that its other end notices when the child has ended.
    """

    def __init__(self, writing: FileIO, reading: FileIO, transforming: "asyncio.Future[None]") -> None:
        self.writing = writing
        self.reading = reading
        self._transforming = transforming
        self._transport: asyncio.BaseTransport | None = None

    async def reader(self) -> asyncio.StreamReader:
        """Read from the channel in this process."""
        reader = asyncio.StreamReader(limit=_BYTES)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self.reading
        )
        return reader

    async def writer(self) -> asyncio.StreamWriter:
        """Write to the channel in this process; to close the writer is to say that all was written."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(FlowControlMixin, self.writing)
        self._transport = transport
        return asyncio.StreamWriter(transport, protocol, None, loop)

    async def require_transformed(self) -> None:
        """Wait until all was changed that was written.

        Raises:
            Exception: what the thread has raised.
        """
        await asyncio.shield(self._transforming)

    async def close(self) -> None:
        """Close both ends; the thread notices, and is waited for."""
        if isinstance(self._transport, asyncio.WriteTransport):
            if self._transport.get_write_buffer_size() or not self._transport.is_closing():
                self._transport.abort()
        elif self._transport is not None:
            self._transport.close()
        self.writing.close()
        self.reading.close()
        await asyncio.gather(self._transforming, return_exceptions=True)


def unchanged(source: BinaryIO, target: BinaryIO) -> None:
    """Pass everything on as it is."""
    shutil.copyfileobj(source, target, _BYTES)


@asynccontextmanager
async def channel(transform: Transform = unchanged) -> AsyncIterator[Channel]:
    """A channel with a thread in it, which changes what flows.

    Also where nothing is changed, the thread gathers what a program writes in pieces of some kilobytes, and
    the event loop is woken a hundredth as often.

    At the end of the body, no child process may have an end of it: the thread would wait for that child.
    """
    with ExitStack() as stack:
        first_out, first_in = _pipe(stack)
        second_out, second_in = _pipe(stack)
        executor = ThreadPoolExecutor(1, thread_name_prefix="backup")
        stack.callback(executor.shutdown, wait=False)
        loop = asyncio.get_running_loop()
        opened = Channel(
            first_in, second_out, loop.run_in_executor(executor, _work, transform, first_out, second_in)
        )
        try:
            yield opened
        finally:
            await opened.close()


def _work(transform: Transform, source: FileIO, target: FileIO) -> None:
    with (
        suppress(BrokenPipeError),  # what reads the other end has ended, and says why
        BufferedReader(source, _BYTES) as reader,
        BufferedWriter(target, _BYTES) as writer,
    ):
        transform(reader, writer)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """The end to read from, and the end to write to."""
    out, into = os.pipe()
    reading, writing = stack.enter_context(FileIO(out, "rb")), stack.enter_context(FileIO(into, "wb"))
    if sys.platform == "linux":
        with suppress(OSError):  # of all pipes of one account, only so many may be large
            fcntl(writing, _F_SETPIPE_SZ, _BYTES)
    return reading, writing
