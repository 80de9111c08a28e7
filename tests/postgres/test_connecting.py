"""A session is opened on that host of a DSN which takes writes."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded import seeding
from ods.embedded.ports import free_port
from ods.embedded.postgres import SUPERUSER, EmbeddedPostgres
from ods.registry.storage import connecting
from ods.registry.storage import engine as instances_engine
from ods.registry.storage.connecting import connect
from ods.registry.storage.engine import create_registry_engine
from tests.replication import ReplicatedPair, replicated_pair
from tests.servers import SERVICE_PASSWORD

_MAKE_READ_ONLY = "SET default_transaction_read_only = on"


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[ReplicatedPair]:
    async with replicated_pair() as pair:
        await pair.switchover()  # so that the standby is named first
        await seeding.ensure_service_role(pair.primary.dsn(), SERVICE_PASSWORD)
        yield pair


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A host that accepts and says nothing, as if it had lost its power."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _port(dsn: str) -> int:
    session = await connect(dsn, timeout=5)
    try:
        port: int = await session.fetchval("SELECT inet_server_port()")
    finally:
        await session.close()
    return port


@pytest.mark.parametrize(
    "parameters", ["", "?target_session_attrs=read-write", "?target_session_attrs=primary"]
)
async def test_primary_is_found_when_the_standby_is_named_first(
    pair: ReplicatedPair, parameters: str
) -> None:
    assert await _port(pair.dsn("postgres") + parameters) == pair.primary.port


async def test_first_host_is_taken_when_the_dsn_wants_any(pair: ReplicatedPair) -> None:
    assert pair.standby is not None
    assert await _port(pair.dsn("postgres") + "?target_session_attrs=any") == pair.standby.port


@pytest.mark.parametrize("parameters", ["", "?target_session_attrs=primary"])
async def test_session_is_refused_as_read_only_when_the_only_host_is_a_standby(
    pair: ReplicatedPair, parameters: str
) -> None:
    assert pair.standby is not None
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connect(pair.standby.dsn() + parameters, timeout=5)


async def test_fault_is_told_as_read_only_when_no_host_of_the_registry_takes_writes(
    pair: ReplicatedPair,
) -> None:
    assert pair.standby is not None
    engine = create_registry_engine(pair.standby.dsn())
    try:
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect():
                pass
    finally:
        await engine.dispose()
    assert getattr(caught.value.orig, "sqlstate", None) == "25006"


async def test_next_host_is_taken_when_the_first_refuses(pair: ReplicatedPair) -> None:
    dsn = pair.dsn("postgres").replace(pair.hosts, f"127.0.0.1:{free_port()},{pair.hosts}")
    assert await _port(dsn) == pair.primary.port


@pytest.mark.timed
async def test_next_host_is_taken_soon_when_the_first_is_silent(
    pair: ReplicatedPair, silent_port: int
) -> None:
    dsn = pair.dsn("postgres").replace(pair.hosts, f"127.0.0.1:{silent_port},{pair.hosts}")
    before = time.monotonic()
    assert await _port(dsn) == pair.primary.port
    assert time.monotonic() - before < 2


async def test_nothing_is_left_open_when_two_hosts_answer_at_once(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_NEXT_HOST_SECONDS", 0)
    host = f"127.0.0.1:{postgres.port}"
    dsn = postgres.dsn().replace(host, ",".join([host] * 4)) + "?application_name=twins"
    session = await connect(dsn, timeout=5)
    mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'twins'"
    async with asyncio.timeout(5):
        while await admin.fetchval(mine) > 1:
            await asyncio.sleep(0.01)
    await session.close()


async def test_refusal_is_told_when_every_host_refuses_the_login(pair: ReplicatedPair) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(pair.dsn("postgres", SUPERUSER, "wrong"), timeout=5)


async def test_database_is_missing_only_when_no_host_is_away(pair: ReplicatedPair) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await connect(pair.dsn("missing"), timeout=5)
    assert pair.standby is not None
    standby = pair.standby.dsn("missing").replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    with pytest.raises(ConnectionRefusedError):
        await connect(standby, timeout=5)


@pytest.mark.timed
async def test_time_is_up_when_no_host_answers(silent_port: int) -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        await connect(f"postgresql://a:b@127.0.0.1:{silent_port},127.0.0.1:{silent_port}/c", timeout=1)
    assert time.monotonic() - before < 2


async def _backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        pid: int = await connection.scalar(text("SELECT pg_backend_pid()"))
    return pid


async def test_connections_are_replaced_when_one_that_was_idle_cannot_write_any_more(
    registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_engine, "_TRUSTED_SECONDS", 0)
    engine = create_registry_engine(registry_dsn, pool_size=2)
    try:
        async with engine.connect() as first, engine.connect() as second:
            old = {await one.scalar(text("SELECT pg_backend_pid()")) for one in (first, second)}
            for one in (first, second):
                await one.rollback()
                session = (await one.get_raw_connection()).driver_connection
                assert session is not None
                await session.execute(_MAKE_READ_ONLY)
        async with engine.connect() as first, engine.connect() as second:
            new = {await one.scalar(text("SELECT pg_backend_pid()")) for one in (first, second)}
            for one in (first, second):
                await one.execute(text("CREATE TEMPORARY TABLE written (id int)"))
    finally:
        await engine.dispose()
    assert not old & new


async def test_connections_are_replaced_when_a_write_is_refused_on_one_that_is_trusted(
    registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_engine, "_TRUSTED_SECONDS", 60)
    engine = create_registry_engine(registry_dsn, pool_size=2)
    refused = text("DELETE FROM dbo.odsinstances")
    try:
        async with engine.connect() as first, engine.connect() as second:
            old = {await one.scalar(text("SELECT pg_backend_pid()")) for one in (first, second)}
            await first.rollback()
            session = (await first.get_raw_connection()).driver_connection
            assert session is not None
            await session.execute(_MAKE_READ_ONLY)
            with pytest.raises(DBAPIError) as caught:
                await first.execute(refused)
        new = {await _backend(engine) for _ in range(2)}
    finally:
        await engine.dispose()
    assert caught.value.connection_invalidated
    assert not old & new


async def test_read_only_connection_is_used_again_when_the_dsn_wants_any(
    registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_engine, "_TRUSTED_SECONDS", 0)
    engine = create_registry_engine(f"{registry_dsn}?target_session_attrs=any", pool_size=1)
    try:
        async with engine.connect() as connection:
            session = (await connection.get_raw_connection()).driver_connection
            assert session is not None
            await session.execute(_MAKE_READ_ONLY)
        first = await _backend(engine)
        assert await _backend(engine) == first
    finally:
        await engine.dispose()
