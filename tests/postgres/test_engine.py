"""Addresses of the registry, in every form that PostgreSQL's own tools accept."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text

from ods.registry.migrations import upgrade
from ods.registry.storage import engine as instances_engine
from ods.registry.storage.connecting import question
from ods.registry.storage.engine import create_registry_engine

_LAST_QUERY = "SELECT query FROM pg_stat_activity WHERE pid = $1"


@pytest.mark.parametrize(
    "parameters",
    [
        "sslmode=disable",
        "sslmode=prefer&application_name=ods",
        "target_session_attrs=read-write",
    ],
)
async def test_registry_is_reached_when_its_address_has_parameters(
    registry_dsn: str, parameters: str
) -> None:
    engine = create_registry_engine(f"{registry_dsn}?{parameters}")
    try:
        async with engine.connect() as connection:
            shown = await connection.scalar(text("SHOW application_name"))
    finally:
        await engine.dispose()
    assert shown == ("ods" if "application_name" in parameters else "")


async def test_registry_is_reached_when_its_address_begins_with_postgres(registry_dsn: str) -> None:
    await upgrade(registry_dsn.replace("postgresql://", "postgres://") + "?sslmode=disable")


async def test_dead_connection_is_replaced_when_it_is_taken_from_the_pool(
    registry_dsn: str, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_engine, "_TRUSTED_SECONDS", 0)
    engine = create_registry_engine(registry_dsn, pool_size=1)
    try:
        async with engine.connect() as connection:
            first = await connection.scalar(text("SELECT pg_backend_pid()"))
        assert await rows.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != first
    finally:
        await engine.dispose()


async def test_closed_connection_is_replaced_when_it_was_used_a_moment_ago(registry_dsn: str) -> None:
    engine = create_registry_engine(registry_dsn, pool_size=1)
    try:
        async with engine.connect() as connection:
            first = await connection.scalar(text("SELECT pg_backend_pid()"))
            raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        raw.terminate()
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != first
    finally:
        await engine.dispose()


async def test_connection_is_asked_whether_it_answers_only_when_that_was_a_second_ago(
    registry_dsn: str, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_registry_engine(registry_dsn, pool_size=1)
    statement = text("SELECT pg_backend_pid()")

    async def first_statement() -> str:
        """What the connection was asked when it was taken."""
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            return str(await rows.fetchval(_LAST_QUERY, raw.get_server_pid()))

    try:
        async with engine.connect() as connection:
            await connection.scalar(statement)
        assert await first_statement() != question(registry_dsn)
        monkeypatch.setattr(instances_engine, "_TRUSTED_SECONDS", 0.3)
        async with asyncio.timeout(10):  # it is never idle for that long
            while await first_statement() != question(registry_dsn):
                pass
    finally:
        await engine.dispose()
