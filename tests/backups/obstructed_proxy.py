"""A TCP proxy that cuts or holds up connections once so many bytes went through it."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum

_PIECE = 65536


class Obstacle(Enum):
    """What the proxy does when the bytes are used up."""

    CUT = "closes every connection, and accepts none"
    CUT_ONCE = "closes every connection, and then lets everything through"
    HOLD = "passes nothing on"


class ObstructedProxy:
    """The proxy.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int, room: int, obstacle: Obstacle) -> None:
        self.port = 0
        self._target = target
        self._room = room
        self._obstacle = obstacle
        self._writers: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = False

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._room <= 0 and self._obstacle is Obstacle.CUT:
            writer.transport.abort()
            return
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, onward_writer}
        for source, target in ((reader, onward_writer), (onward_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)

    async def _pass_on(self, source: StreamReader, target: StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await source.read(_PIECE):
                self._room -= len(piece)
                if self._room <= 0 and not self._free:
                    await self._obstruct()
                target.write(piece)
                await target.drain()
        target.close()

    async def _obstruct(self) -> None:
        if self._obstacle is Obstacle.HOLD:
            await asyncio.get_running_loop().create_future()
        self._free = self._obstacle is Obstacle.CUT_ONCE
        self.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        self.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def obstructed_proxy(target: int, room: int, obstacle: Obstacle) -> AsyncIterator[ObstructedProxy]:
    """A proxy to the port `target` that passes `room` bytes on, in both directions together."""
    proxy = ObstructedProxy(target, room, obstacle)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.stop()
        await listening.wait_closed()
