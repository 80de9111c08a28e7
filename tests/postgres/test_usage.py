"""Reading how databases are used: how often the server is asked, and that no job waits for it."""

import asyncio
from dataclasses import replace
from time import monotonic
from typing import Any

import asyncpg
import pytest

from ods.databases import statements
from ods.databases.activating import rename
from ods.databases.constants import APPLICATION_NAME
from ods.databases.dropping import drop
from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection import usage
from ods.databases.inspection.usage import UsageReader
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from tests.postgres.postgres_inspection import exists, still_due
from tests.servers import MINIMAL_TEMPLATE, SAMPLE_TEMPLATE, service_dsn, session

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = $2"
_VISITORS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The names of each query of figures."""
    queries: list[set[str]] = []

    async def noted(
        session: asyncpg.Connection, query: str, names: list[str], *more: Any
    ) -> list[asyncpg.Record]:
        queries.append(set(names))
        return await statements.fetch_rows(session, query, names, *more)

    monkeypatch.setattr(usage, "fetch_rows", noted)
    return queries


@pytest.fixture
async def provisioned(server: Server, wanted: CloneRequest) -> CloneRequest:
    """The instance's database."""
    async with server.fenced(wanted.owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
    return wanted


async def waited_for(admin: asyncpg.Connection, database: str, event: str, sessions: int) -> None:
    """Wait until as many sessions on the database wait for an event, as PostgreSQL calls it."""

    async def is_reached() -> bool:
        return bool(await admin.fetchval(_WAITING, database, event) == sessions)

    await wait_until(is_reached, 5)


@pytest.fixture
async def reading(
    server: Server, admin: asyncpg.Connection, provisioned: CloneRequest, monkeypatch: pytest.MonkeyPatch
) -> "asyncio.Task[object]":
    """The tables of the instance's database are being read, which takes longer than a job may wait."""
    monkeypatch.setattr(usage, "_TABLES", "SELECT pg_sleep(600), $1::int")
    tables = UsageReader(server).tables(provisioned.owner, provisioned.database)
    task = asyncio.create_task(tables)
    await waited_for(admin, provisioned.database, "PgSleep", 1)
    return task


async def test_delete_does_not_wait_when_the_tables_are_being_read(
    server: Server,
    admin: asyncpg.Connection,
    provisioned: CloneRequest,
    reading: "asyncio.Task[object]",
) -> None:
    async with asyncio.timeout(2), server.fenced(provisioned.owner) as fenced:
        await drop(fenced, provisioned.owner, [provisioned.database], published=True, before=still_due)
    with pytest.raises(DatabaseFaultError) as caught:
        await reading
    assert caught.value.outage
    assert not await exists(admin, provisioned.database)


async def test_rename_does_not_wait_when_the_tables_are_being_read(
    server: Server,
    admin: asyncpg.Connection,
    provisioned: CloneRequest,
    reading: "asyncio.Task[object]",
) -> None:
    target = f"{provisioned.database}_new"
    owner = replace(provisioned.owner, number=2)
    try:
        async with asyncio.timeout(2), server.fenced(owner) as fenced:
            await rename(server, fenced, owner, provisioned.database, target)
        with pytest.raises(DatabaseFaultError) as caught:
            await reading
        assert caught.value.outage
        assert await exists(admin, target)
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)')


@pytest.mark.usefixtures("provisioned")
async def test_figures_of_the_others_are_told_when_databases_are_dropped_meanwhile(
    server: Server, admin: asyncpg.Connection, wanted: CloneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_FRESH_SECONDS", 0.0)
    reader, passing = UsageReader(server), f"{wanted.database}_passing"

    async def made_and_dropped() -> None:
        for _ in range(20):
            await admin.execute(f'CREATE DATABASE "{passing}"')
            await admin.execute(f'DROP DATABASE "{passing}"')

    changing = asyncio.create_task(made_and_dropped())
    seen = set()
    while not changing.done():
        figures = await reader.figures([wanted.database, passing])
        assert figures[wanted.database].size_bytes > 1_000_000
        seen.add(len(figures))
    await changing
    assert seen == {1, 2}


async def test_figures_are_read_again_alone_when_they_are_too_old_for_a_request(
    server: Server, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_FRESH_SECONDS", 600.0)
    reader = UsageReader(server)
    both = [MINIMAL_TEMPLATE, SAMPLE_TEMPLATE]
    await reader.figures(both)
    since = monotonic()
    await reader.figures([MINIMAL_TEMPLATE], since=since)
    await reader.figures([MINIMAL_TEMPLATE], since=since)
    await reader.figures(both)
    assert asked == [set(both), {MINIMAL_TEMPLATE}]


async def test_two_queries_are_made_when_fifty_clients_ask_for_different_databases_at_once(
    server: Server, asked: list[set[str]]
) -> None:
    reader = UsageReader(server)
    await asyncio.gather(*(reader.figures([MINIMAL_TEMPLATE, f"number {n}"]) for n in range(50)))

    assert len(asked) == 2
    assert set.union(*asked) == {MINIMAL_TEMPLATE, *(f"number {n}" for n in range(50))}
    assert not set.intersection(*asked)


async def test_figures_are_asked_again_when_they_are_old(
    server: Server, asked: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = UsageReader(server)
    for _ in range(2):
        assert await reader.figures([MINIMAL_TEMPLATE])
    assert len(asked) == 1
    monkeypatch.setattr(usage, "_FRESH_SECONDS", 0.0)
    assert await reader.figures([MINIMAL_TEMPLATE])
    assert len(asked) == 2


async def test_server_is_tried_once_when_it_is_away_and_fifty_clients_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server("postgresql://any:any@127.0.0.1:1/postgres")
    tried = 0
    opened = server.session

    def counted() -> Any:
        nonlocal tried
        tried += 1
        return opened()

    monkeypatch.setattr(server, "session", counted)
    reader = UsageReader(server)
    faults = await asyncio.gather(
        *(reader.figures([f"number {n}"]) for n in range(50)), return_exceptions=True
    )
    assert tried == 1
    assert all(isinstance(fault, DatabaseFaultError) and fault.outage for fault in faults)


async def test_client_is_not_kept_waiting_when_the_server_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "_READ_SECONDS", 0.2)
    listening = asyncio.Event()

    async def stay_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await listening.wait()
        writer.close()

    silent = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, asyncio.timeout(5):
        reader = UsageReader(Server(f"postgresql://any:any@127.0.0.1:{port}/postgres"))
        with pytest.raises(DatabaseFaultError, match="did not answer in time"):
            await reader.figures(["any"])
        listening.set()


async def test_two_sessions_are_in_databases_when_many_clients_ask_for_tables(
    server: Server, postgres: EmbeddedPostgres, admin: asyncpg.Connection, provisioned: CloneRequest
) -> None:
    reader = UsageReader(server)
    database = provisioned.database
    async with session(service_dsn(postgres, database)) as holder:
        await holder.execute("CREATE TABLE locked (id int)")
        await holder.execute("BEGIN; LOCK TABLE locked")
        asking = [asyncio.create_task(reader.tables(provisioned.owner, database)) for _ in range(10)]
        await waited_for(admin, database, "relation", 2)
        assert not any(task.done() for task in asking)
        assert await admin.fetchval(_VISITORS, database, APPLICATION_NAME) == 2
    told = await asyncio.gather(*asking)
    assert all(tables is not None and tables.tables > 1 for tables in told)
