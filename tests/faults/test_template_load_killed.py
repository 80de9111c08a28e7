"""`ods template load` killed in each phase: the old template stays in place, and nothing else is left."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest

from ods.databases.constants import TEMPLATE_PREFIX, private_prefix
from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests import preloaded
from tests.servers import MINIMAL_TEMPLATE, NUMBERS, environment, make_settings, session

SCRIPT = (Path(seeding.__file__).parent / "templates" / "minimal.sql").read_text()
ENDLESS = f"{SCRIPT}SELECT pg_sleep(600);\n"


@pytest.fixture
async def database(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A template of the test's own."""
    name = f"Killed_Template_{next(NUMBERS)}"
    await admin.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{MINIMAL_TEMPLATE}" OWNER {seeding.SERVICE_ROLE}'
        " IS_TEMPLATE true ALLOW_CONNECTIONS false"
    )
    yield name
    await admin.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
    await admin.execute(f'DROP DATABASE "{name}"')


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, database: str) -> Settings:
    return make_settings(postgres, registry_dsn, templates={"Killed": database})


async def _load(settings: Settings, source: Path | str, output: Path) -> preloaded.Process:
    variables = {"PATH": os.environ["PATH"], "TMPDIR": str(output.parent), **environment(settings)}
    arguments = ("template", "load", "Killed", str(source), "--yes")
    with output.open("w") as stdout:
        return await preloaded.start("ods.cli", *arguments, env=variables, stdout=stdout, stderr=stdout)


async def _oid(admin: asyncpg.Connection, database: str) -> int:
    oid: int = await admin.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", database)
    return oid


@pytest.mark.parametrize(
    ("phase", "script"),
    [
        ("Examining the file", SCRIPT),
        ("Loading into a private database", ENDLESS),
        ("Checking the database", SCRIPT),
        ("Collecting statistics", SCRIPT),
        ("Publishing", SCRIPT),
    ],
)
async def test_old_template_is_in_place_and_nothing_is_left_when_a_load_is_killed(
    phase: str,
    script: str,
    settings: Settings,
    tenant: Tenant,
    database: str,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    tmp_path: Path,
) -> None:
    file, output = tmp_path / "ods.sql", tmp_path / "output"
    file.write_text(script)
    old = await _oid(admin, database)
    prefix = private_prefix(TEMPLATE_PREFIX, await tenant.installation.id())

    async def left() -> list[str]:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, $1)"
        return [row["datname"] for row in await admin.fetch(query, prefix)]

    async def removed() -> bool:
        await tenant.remove_template_leftovers()
        return not await left()

    async with session(postgres.dsn()) as holder, holder.transaction():
        # Nothing can be published while this lock is held, however late the signal comes.
        await holder.execute(f"COMMENT ON DATABASE \"{database}\" IS 'held'")
        began = await admin.fetchval("SELECT clock_timestamp()")
        process = await _load(settings, file, output)

        async def reached() -> bool:
            assert process.returncode is None, output.read_text()
            return phase in output.read_text()

        await wait_until(reached, 30)
        if script is ENDLESS:
            await wait_until(lambda: _sleeps(admin), 30)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        # What it has sent before, the server may carry out yet.
        await wait_until(lambda: _sessions_end(admin, began), 30)
    assert await _oid(admin, database) == old
    await wait_until(removed, 30)
    assert await _oid(admin, database) == old
    assert not await admin.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", database)


async def test_template_is_loaded_and_leftovers_go_when_the_load_before_was_killed(
    settings: Settings, tenant: Tenant, database: str, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    file, output = tmp_path / "ods.sql", tmp_path / "output"
    file.write_text(ENDLESS)
    old = await _oid(admin, database)
    process = await _load(settings, file, output)
    await wait_until(lambda: _sleeps(admin), 30)
    process.send_signal(signal.SIGKILL)
    await process.wait()

    file.write_text(SCRIPT)
    assert await (await _load(settings, file, output)).wait() == 0, output.read_text()
    assert "The template Killed is loaded (generation 1)." in output.read_text()
    assert await _oid(admin, database) != old
    prefix = private_prefix(TEMPLATE_PREFIX, await tenant.installation.id())
    query = "SELECT oid::int8 FROM pg_database WHERE starts_with(datname, $1)"
    for _ in range(2):
        # The template before, which no load had made, is kept.
        assert [row["oid"] for row in await admin.fetch(query, prefix)] == [old]
        await tenant.remove_template_leftovers()


async def test_no_file_is_left_when_a_load_is_killed_while_it_fetches_one(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    async with _endless_file() as (address, fetched):
        process = await _load(settings, address, folder / "output")
        await asyncio.wait_for(fetched.wait(), 30)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert [file.name for file in folder.iterdir()] == ["output"]


@asynccontextmanager
async def _endless_file() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The address of a file that has no end, and the event that megabytes of it have been fetched."""
    fetched = asyncio.Event()

    async def answer(_: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        client.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(ConnectionError):
            for count in itertools.count():
                client.write(b"x" * 2**20)
                await client.drain()
                if count > 16:
                    fetched.set()
        client.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", fetched


async def _sessions_end(admin: asyncpg.Connection, began: datetime) -> bool:
    """Whether no session of the load is left that could publish anything."""
    query = """
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = $1 AND backend_start > $2 AND NOT starts_with(datname, $3)
    """
    return not await admin.fetchval(query, seeding.SERVICE_ROLE, began, TEMPLATE_PREFIX)


async def _sleeps(admin: asyncpg.Connection) -> bool:
    """Whether psql has loaded all, and goes on and on."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND starts_with(datname, $1)"
    return bool(await admin.fetchval(query, TEMPLATE_PREFIX))
