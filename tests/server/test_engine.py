"""Addresses of the registry, in every form that PostgreSQL's own tools accept."""

import asyncpg
import pytest
from sqlalchemy import text

from instances.engine import create_registry_engine
from instances.migrations import upgrade


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
    registry_dsn: str, rows: asyncpg.Connection
) -> None:
    engine = create_registry_engine(registry_dsn, pool_size=1)
    try:
        async with engine.connect() as connection:
            first = await connection.scalar(text("SELECT pg_backend_pid()"))
        assert await rows.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != first
    finally:
        await engine.dispose()
