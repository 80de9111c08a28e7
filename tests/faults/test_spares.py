"""Processes that fill, claim and prune the same spares at once, and are killed at any moment."""

import asyncio
import os
import random
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import asyncpg
import pytest

from ods.databases.server import Server
from ods.databases.templates.spare_pool import Limits, SparePool
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import CloneStrategy
from tests import preloaded
from tests.postgres.postgres_inspection import until
from tests.servers import MINIMAL_TEMPLATE, seeded_postgres, service_dsn, session

_PROCESSES = 5
_INSTALLATION = "6b1f0f6e-1111-4222-8333-444444444444"
_LEAST_KILLED = 8
_LEAST_CLAIMED = 20
_TIMEOUT_SECONDS = 60
_DATABASES = "SELECT datname FROM pg_database"


@pytest.fixture
async def admin(admin: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's session; databases that are new in the end are removed."""
    before = {row["datname"] for row in await admin.fetch(_DATABASES)}
    yield admin
    for name in {row["datname"] for row in await admin.fetch(_DATABASES)} - before:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _worker(dsn: str, installation: str, output: IO[str]) -> preloaded.Process:
    return await preloaded.start(
        *("tests.faults.spare_worker", dsn, installation, MINIMAL_TEMPLATE), env=os.environ, stdout=output
    )


async def _storm(dsn: str, installation: str, output: IO[str]) -> list[list[str]]:
    """Kill one process after the other and put a new one in its place; returns what they told."""
    workers = [await _worker(dsn, installation, output) for _ in range(_PROCESSES)]
    killed, told = 0, list[list[str]]()
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while killed < _LEAST_KILLED or len(told) < _LEAST_CLAIMED:
                await asyncio.sleep(random.uniform(0.3, 1.0))  # noqa: S311 - the moment is the point
                victim = workers.pop(0)
                victim.kill()
                await victim.wait()
                killed += 1
                workers.append(await _worker(dsn, installation, output))
                lines = Path(output.name).read_text().splitlines()  # noqa: ASYNC240 - small
                told = [line.split()[:3] for line in lines if line.endswith(" claimed")]
    finally:
        for worker in workers:
            worker.kill()
            await worker.wait()
    return told


async def test_no_spare_is_handed_out_twice_or_left_when_processes_are_killed_all_the_time(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    dsn, installation = service_dsn(postgres, "postgres"), str(uuid.uuid4())
    with tempfile.NamedTemporaryFile("w+") as output:
        told = await _storm(dsn, installation, output.file)
    assert len({oid for _, oid, _ in told}) == len(told)
    for database, oid, mark in told:
        row = await admin.fetchrow(
            "SELECT oid::int8, datallowconn, shobj_description(oid, 'pg_database') AS comment"
            " FROM pg_database WHERE datname = $1",
            database,
        )
        assert row is not None
        assert (row["oid"], row["datallowconn"]) == (int(oid), True)
        assert mark in row["comment"]

    async def identity() -> str:
        return installation

    nothing = Limits(of_template=0, in_all=0, size_bytes=0)
    server = Server(dsn)
    pool = SparePool(server, identity, [MINIMAL_TEMPLATE], CloneStrategy.AUTO, nothing)
    prefix = f"ods_spare_{installation.replace('-', '')[:16]}_"

    async def none_is_left() -> bool:
        await pool.prune()  # a killed client's session may live for half a second longer
        left = f"{_DATABASES} WHERE starts_with(datname, $1)"
        return not await admin.fetch(left, prefix)

    await until(none_is_left, 10)
    await server.close()


async def test_changed_template_is_noticed_and_the_other_is_not_when_the_server_crashed_meanwhile() -> None:
    templates = ["changed", "kept"]

    async def identity() -> str:
        return _INSTALLATION

    async with seeded_postgres() as server:
        reached = Server(server.dsn())
        pool = SparePool(reached, identity, templates, CloneStrategy.AUTO, Limits(1, 2, 10**12))
        async with session(server.dsn()) as connection:
            for template in templates:
                await connection.execute(f"CREATE DATABASE {template} ALLOW_CONNECTIONS false")
            for order in (await pool.prune()).missing:
                await pool.replenish(order)
            await connection.execute("ALTER DATABASE changed ALLOW_CONNECTIONS true")
            async with session(server.dsn("changed")) as editor:
                await editor.execute("CREATE TABLE later AS SELECT 1 AS id")
            await connection.execute("ALTER DATABASE changed ALLOW_CONNECTIONS false")
        os.kill(server.pid, signal.SIGQUIT)  # the server ends as in a crash, and recovers when it starts
        await server.stop()
        await server.start()
        found = {it.template: (it.ready, it.stale) for it in (await pool.report()).templates}
        await reached.close()
    assert found == {"changed": (0, 1), "kept": (1, 0)}
