"""One transaction for everything that a request writes, whichever stores take part.

Within the block of `unit_of_work`, the sessions of that registry (`ods.registry.storage.sessions`) join its
transaction, each with a savepoint of its own: nothing is committed before the block ends, and nothing if it
raises. What must not happen before the commit, such as starting a job, is handed to `after_commit`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from ods.registry.storage.engine import POOL_SIZE

Action = Callable[[], Awaitable[None]]

_MOST_AT_ONCE = POOL_SIZE // 2
"""Transactions of this kind on one registry: each holds a connection while it waits for the lock of another
one, or for a server, and other requests need some as well."""


@dataclass(frozen=True)
class _UnitOfWork:
    """The transaction that is open in this task, and what follows its commit."""

    engine: AsyncEngine
    connection: AsyncConnection
    actions: list[Action] = field(default_factory=list)


_places: WeakKeyDictionary[AsyncEngine, asyncio.Semaphore] = WeakKeyDictionary()
_open: ContextVar[_UnitOfWork | None] = ContextVar("unit of work", default=None)


@asynccontextmanager
async def unit_of_work(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction (READ COMMITTED) that the sessions of this task join; then what waits for its commit.

    The sessions take turns: no two of them may be open at once. While half of the connections of the registry
    are in use by such blocks, another one waits. Within another such block on the same
    registry, this one is a part of that transaction: if it raises, what it has changed is undone.
    """
    if (outer := _current(engine)) is not None:
        async with outer.connection.begin_nested():
            yield outer.connection
        return
    places = _places.setdefault(engine, asyncio.Semaphore(_MOST_AT_ONCE))
    async with places, engine.connect() as connection:
        unit = _UnitOfWork(engine, connection)
        token = _open.set(unit)
        try:
            async with connection.begin():
                yield connection
        finally:
            _open.reset(token)
    await asyncio.gather(*(action() for action in unit.actions))


def joined(engine: AsyncEngine) -> AsyncSession | None:
    """A session in the transaction that is open in this task on this registry; None if there is none.

    Its COMMIT and ROLLBACK are those of a savepoint.
    """
    unit = _current(engine)
    if unit is None:
        return None
    return AsyncSession(unit.connection, join_transaction_mode="create_savepoint", expire_on_commit=False)


def _current(engine: AsyncEngine) -> _UnitOfWork | None:
    unit = _open.get()
    return unit if unit is not None and unit.engine is engine else None


async def after_commit(action: Action) -> None:
    """Have `action` done when the transaction of this task is committed; now, if there is none."""
    unit = _open.get()
    if unit is None:
        await action()
    else:
        unit.actions.append(action)
