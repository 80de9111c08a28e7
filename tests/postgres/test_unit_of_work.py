"""One transaction for everything that a request writes."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded.polling import wait_until
from ods.registry.storage.engine import POOL_SIZE
from ods.registry.storage.models import OdsInstance
from ods.registry.storage.sessions import UNIQUE_VIOLATION, RegistrySessions
from ods.registry.storage.unit_of_work import after_commit, unit_of_work

COUNT = select(func.count()).select_from(OdsInstance)


@pytest.fixture
def sessions(engine: AsyncEngine) -> RegistrySessions:
    """Sessions on the test's registry."""
    return RegistrySessions(engine)


class OtherError(Exception):
    """What ends a block."""


async def add(sessions: RegistrySessions, name: str) -> None:
    async with sessions.transaction({UNIQUE_VIOLATION: OtherError}) as session:
        await session.execute(insert(OdsInstance).values(name=name, instance_type=""))


async def add_at_once(sessions: RegistrySessions, name: str) -> None:
    async with sessions.statement() as session:
        await session.execute(insert(OdsInstance).values(name=name, instance_type=""))


async def count(engine: AsyncEngine) -> int:
    """As another session sees it."""
    async with engine.connect() as connection:
        return int(await connection.scalar(COUNT) or 0)


async def test_everything_is_committed_together_when_the_block_ends(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    async with unit_of_work(engine):
        await add(sessions, "a")
        await add_at_once(RegistrySessions(engine), "b")
        async with sessions.statement() as session:
            assert await session.scalar(COUNT) == 2
        assert await count(engine) == 0
    assert await count(engine) == 2


async def test_nothing_stays_when_the_block_raises(engine: AsyncEngine, sessions: RegistrySessions) -> None:
    async def given_up() -> None:
        async with unit_of_work(engine):
            await add(sessions, "a")
            await add_at_once(sessions, "b")
            raise OtherError

    with pytest.raises(OtherError):
        await given_up()
    assert await count(engine) == 0


async def test_the_others_stay_when_one_transaction_of_the_block_is_refused(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    async with unit_of_work(engine):
        await add(sessions, "a")
        with pytest.raises(OtherError):
            await add(sessions, "a")
        await add(sessions, "b")
    assert await count(engine) == 2


async def test_inner_block_is_undone_with_the_outer_one_and_alone_when_it_raises(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    async def inner() -> None:
        async with unit_of_work(engine):
            await add(sessions, "b")
            raise OtherError

    async with unit_of_work(engine):
        await add(sessions, "a")
        with pytest.raises(OtherError):
            await inner()
        async with unit_of_work(engine):
            await add(sessions, "c")
        assert await count(engine) == 0
    assert await count(engine) == 2


async def test_action_waits_for_the_commit_and_is_left_out_when_there_is_none(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    done: list[tuple[str, int]] = []

    async def act(what: str) -> None:
        done.append((what, await count(engine)))

    async def given_up() -> None:
        async with unit_of_work(engine):
            await after_commit(partial(act, "given up"))
            raise OtherError

    async with unit_of_work(engine):
        await after_commit(partial(act, "committed"))
        await add(sessions, "a")
        assert done == []
    with pytest.raises(OtherError):
        await given_up()
    await after_commit(partial(act, "at once"))
    assert done == [("committed", 1), ("at once", 1)]


async def test_sessions_on_another_registry_stand_alone(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    other = engine.execution_options()  # another engine, as far as sessions can tell
    async with unit_of_work(other):
        await add(sessions, "a")
        assert await count(engine) == 1


async def test_others_get_connections_when_as_many_requests_are_under_way_as_the_pool_has_connections(
    engine: AsyncEngine, sessions: RegistrySessions
) -> None:
    begun, may_end = 0, asyncio.Event()

    async def long() -> None:
        nonlocal begun
        async with unit_of_work(engine):
            begun += 1
            await may_end.wait()

    async def have_begun() -> bool:
        return begun >= POOL_SIZE // 2

    running = [asyncio.create_task(long()) for _ in range(2 * POOL_SIZE)]
    await wait_until(have_begun, 10)
    async with asyncio.timeout(5), sessions.statement() as session:
        assert await session.scalar(COUNT) == 0
    may_end.set()
    await asyncio.gather(*running)
    assert begun == 2 * POOL_SIZE
