"""What flows between a child process and this one through pipes, changed on its way by a thread if wanted."""

import asyncio
import os
import sys
from asyncio.streams import FlowControlMixin
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from fcntl import fcntl
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

    def __init__(
        self, writing: BinaryIO, reading: BinaryIO, transforming: "asyncio.Future[None] | None" = None
    ) -> None:
        self.writing = writing
        self.reading = reading
        self._transforming = transforming
        self._transport: asyncio.BaseTransport | None = None

    @property
    def transforms(self) -> bool:
        """Whether what arrives is not what is written."""
        return self._transforming is not None

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
        if self._transforming is not None:
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
        if self._transforming is not None:
            await asyncio.gather(self._transforming, return_exceptions=True)


@asynccontextmanager
async def channel(transform: Transform | None) -> AsyncIterator[Channel]:
    """A channel, with a thread in it if there is something to change.

    At the end of the body, no child process may have an end of it: the thread would wait for that child.
    """
    with ExitStack() as stack:
        first_out, first_in = _pipe(stack)
        if transform is None:
            opened = Channel(first_in, first_out)
        else:
            second_out, second_in = _pipe(stack)
            executor = ThreadPoolExecutor(1, thread_name_prefix="backup")
            stack.callback(executor.shutdown, wait=False)
            working = asyncio.get_running_loop().run_in_executor(
                executor, _work, transform, first_out, second_in
            )
            opened = Channel(first_in, second_out, working)
        try:
            yield opened
        finally:
            await opened.close()


def _work(transform: Transform, source: BinaryIO, target: BinaryIO) -> None:
    with source, target:
        transform(source, target)


def _pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """The end to read from, and the end to write to."""
    out, into = os.pipe()
    reading = stack.enter_context(os.fdopen(out, "rb", buffering=0))
    writing = stack.enter_context(os.fdopen(into, "wb", buffering=0))
    if sys.platform == "linux":
        with suppress(OSError):  # of all pipes of one account, only so many may be large
            fcntl(writing, _F_SETPIPE_SZ, _BYTES)
    return reading, writing
