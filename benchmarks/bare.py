"""The time that PostgreSQL alone takes: CREATE DATABASE without the service.

Few clones are dropped: whenever ext4 makes a file, it steps over every inode that was freed within the last
minutes, one by one. After some thousand files are removed, each new one takes ten times as long.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from benchmarks.load import milliseconds_since
from benchmarks.templates import TemplateSpec
from ods.databases.provisioning import FILE_COPY_FROM_BYTES

DEFAULT_STRATEGY = "WAL_LOG"
"""The default of CREATE DATABASE."""


class BareServer:
    """A superuser's session on the maintenance database."""

    def __init__(self, session: asyncpg.Connection) -> None:
        self.session = session
        self._created: list[str] = []

    async def create(self, template: str, strategy: str = DEFAULT_STRATEGY) -> float:
        """Milliseconds of one CREATE DATABASE, with the options that the service gives it."""
        name = _new_name()
        self._created.append(name)
        return await self._create(name, template, strategy)

    async def clear(self) -> None:
        """Drop what `create` has made, where databases without an owner would count as leaked."""
        for name in self._created:
            await self.session.execute(f"DROP DATABASE {name}")
        self._created.clear()

    async def create_after_flush(self, template: TemplateSpec, strategy: str = DEFAULT_STRATEGY) -> float:
        """Like `create`, after everything else was written to disk; a large clone is dropped again."""
        await self.flush()
        name = _new_name()
        took = await self._create(name, template.database, strategy)
        if template.is_large:
            await self.session.execute(f"DROP DATABASE {name}")
        return took

    async def _create(self, name: str, template: str, strategy: str) -> float:
        started = time.perf_counter()
        await self.session.execute(
            f'CREATE DATABASE {name} TEMPLATE "{template}" STRATEGY {strategy} ALLOW_CONNECTIONS false'
        )
        return milliseconds_since(started)

    async def flush(self) -> None:
        """Have server and kernel write what earlier rounds have left, so that the next is not slowed."""
        await self.session.execute("CHECKPOINT")
        await asyncio.to_thread(os.sync)


@asynccontextmanager
async def bare_server(dsn: str) -> AsyncIterator[BareServer]:
    """The server behind `dsn`."""
    session = await asyncpg.connect(dsn)
    try:
        yield BareServer(session)
    finally:
        await session.close()


def strategy_for(template: TemplateSpec) -> str:
    """The strategy that the service chooses for a template of this size."""
    by_files = template.megabytes * 1024 * 1024 >= FILE_COPY_FROM_BYTES
    return "FILE_COPY" if by_files else DEFAULT_STRATEGY


async def create_many(dsn: str, template: TemplateSpec, clones: int, concurrency: int) -> float:
    """Milliseconds of `clones` clones by so many sessions at once."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(bare_server(dsn)) for _ in range(concurrency)]
        await servers[0].flush()
        numbers = iter(range(clones))
        started = time.perf_counter()
        await asyncio.gather(*(_create_each(server, numbers, template) for server in servers))
        return milliseconds_since(started)


async def _create_each(server: BareServer, numbers: Iterator[int], template: TemplateSpec) -> None:
    for _ in numbers:
        await server.create(template.database, strategy_for(template))


def _new_name() -> str:
    return f"bare_{secrets.token_hex(8)}"
