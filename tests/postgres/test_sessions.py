"""The three kinds of sessions that stores use."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.storage.engine import create_registry_engine
from ods.registry.storage.models import OdsInstance
from ods.registry.storage.sessions import INTEGRITY_VIOLATION, UNIQUE_VIOLATION, RegistrySessions

COUNT = select(func.count()).select_from(OdsInstance)
UNIQUE_NAME = "odsinstances_name_instancetype_key"


@pytest.fixture
def sessions(engine: AsyncEngine) -> RegistrySessions:
    """Sessions on the test's registry."""
    return RegistrySessions(engine)


class OtherError(Exception):
    """What is raised instead of PostgreSQL's refusal."""


async def add(rows: asyncpg.Connection, name: str) -> None:
    """Have another session add an ODS instance."""
    await rows.execute("INSERT INTO dbo.odsinstances (name, instancetype) VALUES ($1, '')", name)


async def test_each_statement_stays_when_a_later_one_of_the_session_fails(
    sessions: RegistrySessions, name: str
) -> None:
    async with sessions.statement() as session:
        await session.execute(insert(OdsInstance).values(name=name))
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
    async with sessions.statement() as session:
        assert await session.scalar(COUNT) == 1


async def test_nothing_stays_when_the_block_of_a_transaction_raises(
    sessions: RegistrySessions, name: str
) -> None:
    async def given_up() -> None:
        async with sessions.transaction() as session:
            await session.execute(insert(OdsInstance).values(name=name))
            raise OtherError

    with pytest.raises(OtherError):
        await given_up()
    async with sessions.statement() as session:
        assert await session.scalar(COUNT) == 0


@pytest.mark.parametrize("kind", ["transaction", "snapshot"])
async def test_locks_are_given_back_when_the_process_hangs_in_a_transaction(
    registry_dsn: str, rows: asyncpg.Connection, name: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("ods.registry.storage.engine._LONGEST_PAUSE", "100ms")
    engine = create_registry_engine(registry_dsn)

    async def hanging() -> None:
        async with getattr(RegistrySessions(engine), kind)() as session:
            await session.scalar(COUNT)
            if kind == "transaction":
                await session.execute(insert(OdsInstance).values(name=name))
            async with asyncio.timeout(10), rows.transaction():
                await rows.execute("LOCK TABLE dbo.odsinstances IN ACCESS EXCLUSIVE MODE")
            await session.scalar(COUNT)

    try:
        with pytest.raises(DBAPIError):
            await hanging()
        async with RegistrySessions(engine).statement() as session:  # by another connection
            assert await session.scalar(COUNT) == 0
    finally:
        await engine.dispose()


async def test_row_keeps_its_values_when_the_session_that_read_it_has_ended(
    sessions: RegistrySessions, name: str
) -> None:
    async with sessions.transaction() as session:
        row = OdsInstance(name=name)
        session.add(row)
    assert row.name == name


async def test_queries_of_a_snapshot_agree_when_another_session_writes_between_them(
    sessions: RegistrySessions, rows: asyncpg.Connection, name: str
) -> None:
    async with sessions.snapshot() as session:
        assert await session.scalar(COUNT) == 0
        await add(rows, name)
        assert await session.scalar(COUNT) == 0
    async with sessions.snapshot() as session:
        assert await session.scalar(COUNT) == 1


async def test_snapshot_refuses_when_a_statement_would_change_something(
    sessions: RegistrySessions, name: str
) -> None:
    async with sessions.snapshot() as session:
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await session.execute(insert(OdsInstance).values(name=name))
    async with sessions.statement() as session:  # over the same connection
        await session.execute(insert(OdsInstance).values(name=name))


@pytest.mark.parametrize("key", [UNIQUE_NAME, UNIQUE_VIOLATION, INTEGRITY_VIOLATION])
@pytest.mark.parametrize("kind", ["statement", "transaction"])
async def test_conflict_is_raised_in_its_own_words_when_postgresql_refuses_a_row(
    sessions: RegistrySessions, rows: asyncpg.Connection, name: str, kind: str, key: str
) -> None:
    await add(rows, name)
    begin = getattr(sessions, kind)
    with pytest.raises(OtherError) as raised:
        async with begin({key: OtherError}) as session:
            await session.execute(insert(OdsInstance).values(name=name, instance_type=""))
    assert raised.value.__suppress_context__


async def test_most_specific_conflict_counts_when_several_are_expected(
    sessions: RegistrySessions, rows: asyncpg.Connection, name: str
) -> None:
    await add(rows, name)
    conflicts = {INTEGRITY_VIOLATION: ValueError, UNIQUE_VIOLATION: KeyError, UNIQUE_NAME: OtherError}
    with pytest.raises(OtherError):
        async with sessions.transaction(conflicts) as session:
            await session.execute(insert(OdsInstance).values(name=name, instance_type=""))


async def test_refusal_stays_postgresqls_when_no_conflict_expects_it(sessions: RegistrySessions) -> None:
    with pytest.raises(IntegrityError):
        async with sessions.transaction({UNIQUE_VIOLATION: OtherError}) as session:
            await session.execute(insert(OdsInstance).values(name=None))


async def test_conflict_is_raised_when_the_row_is_refused_at_the_commit(
    sessions: RegistrySessions, rows: asyncpg.Connection, name: str
) -> None:
    await add(rows, name)
    await add(rows, f"{name} too")

    async def renamed() -> None:
        async with sessions.transaction({UNIQUE_VIOLATION: OtherError}) as session:
            row = (await session.scalars(select(OdsInstance).where(OdsInstance.name == f"{name} too"))).one()
            row.name = name  # written at the end of the block

    with pytest.raises(OtherError):
        await renamed()
