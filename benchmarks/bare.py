"""What PostgreSQL alone takes: CREATE DATABASE, asked for directly."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from benchmarks.load import milliseconds_since
from benchmarks.templates import TemplateSpec
from databases.provisioning import FILE_COPY_FROM_BYTES

DEFAULT_STRATEGY = "WAL_LOG"
"""What CREATE DATABASE does if it is told nothing."""
_PREFIX = "bare_"


class BareServer:
    """A superuser's session on the maintenance database."""

    def __init__(self, session: asyncpg.Connection) -> None:
        self.session = session

    async def create(self, name: str, template: str, strategy: str = DEFAULT_STRATEGY) -> float:
        """Milliseconds of one CREATE DATABASE, told what the service tells it."""
        started = time.perf_counter()
        await self.session.execute(
            f'CREATE DATABASE "{_PREFIX}{name}" TEMPLATE "{template}" STRATEGY {strategy}'
            " ALLOW_CONNECTIONS false"
        )
        return milliseconds_since(started)

    async def drop(self, name: str) -> None:
        """Remove what `create` has made."""
        await self.session.execute(f'DROP DATABASE "{_PREFIX}{name}"')

    async def create_and_drop(self, template: str, strategy: str = DEFAULT_STRATEGY) -> float:
        """Milliseconds of one CREATE DATABASE on a server that has nothing else left to write."""
        await self.settle()
        took = await self.create("one", template, strategy)
        await self.drop("one")
        return took

    async def settle(self) -> None:
        """Write what earlier rounds have left, so that the next one does not pay for it."""
        await self.session.execute("CHECKPOINT")


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
    """Milliseconds of `clones` clones by so many sessions at once; they are dropped again, uncounted."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(bare_server(dsn)) for _ in range(concurrency)]
        await servers[0].settle()
        names = iter(map(str, range(clones)))
        started = time.perf_counter()
        await asyncio.gather(*(_create_each(server, names, template) for server in servers))
        took = milliseconds_since(started)
        for number in range(clones):
            await servers[0].drop(str(number))
    return took


async def _create_each(server: BareServer, names: Iterator[str], template: TemplateSpec) -> None:
    for name in names:
        await server.create(name, template.database, strategy_for(template))
