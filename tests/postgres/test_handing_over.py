"""What keeps a database from being handed over to an instance, one reason at a time."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import nullcontext
from dataclasses import replace

import asyncpg
import pytest

from ods.databases import adoption
from ods.databases.adoption import Candidate
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.server import Server
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from tests.ods import ods_database
from tests.postgres.postgres_inspection import exchanging_by_hand, until, waits_for_names
from tests.servers import MINIMAL_TEMPLATE, without_statistics

_NEEDED = "or a database that this service itself needs"


@pytest.fixture
async def stranger(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database that belongs to the service's role, without a comment."""
    async with ods_database(postgres, script="SELECT") as name:
        yield name


async def _inspected(server: Server, owner: Owner, database: str, needed: Collection[str] = ()) -> Candidate:
    async with server.session() as session:
        found = await adoption.inspect(session, owner, database, needed)
    assert found is not None
    return found


async def _adopted(server: Server, owner: Owner, database: str) -> Candidate | None:
    async with server.session() as session:
        return await adoption.adopt(session, owner, database, ())


async def test_database_may_be_handed_over_when_nothing_is_against_it(
    server: Server, owner: Owner, stranger: str
) -> None:
    found = await _inspected(server, owner, stranger)
    assert (found.obstacle, found.adopted, found.comment) == (None, False, None)


async def test_database_is_needed_when_the_settings_alone_say_so(
    server: Server, owner: Owner, stranger: str
) -> None:
    assert _NEEDED in str((await _inspected(server, owner, stranger, [stranger])).obstacle)


@pytest.mark.parametrize("database", [MINIMAL_TEMPLATE, "postgres"])
async def test_database_is_needed_when_the_server_alone_says_so(
    server: Server, owner: Owner, database: str
) -> None:
    assert _NEEDED in str((await _inspected(server, owner, database)).obstacle)


async def test_mark_is_not_written_when_there_is_an_obstacle(
    server: Server, owner: Owner, stranger: str
) -> None:
    async with server.session() as session:
        found = await adoption.adopt(session, owner, stranger, [stranger])
    assert found is not None
    assert (found.adopted, found.comment) == (False, None)
    assert (await _inspected(server, owner, stranger)).comment is None


async def test_other_instance_keeps_its_mark_when_its_database_gets_the_name_by_hand_meanwhile(
    server: Server, owner: Owner, stranger: str, admin: asyncpg.Connection
) -> None:
    theirs = replace(owner, mark="6b1f0f6e-1111-4222-8333-444444444444").comment
    async with exchanging_by_hand(admin, stranger):
        await admin.execute(f"COMMENT ON DATABASE \"{stranger}\" IS '{theirs}'")
        adopting = asyncio.create_task(_adopted(server, owner, stranger))
        await until(lambda: waits_for_names(admin))
    try:
        with pytest.raises(DatabaseFaultError, match="has changed which database"):
            await adopting
        assert (await _inspected(server, owner, stranger)).comment == theirs
    finally:
        await admin.execute(f'DROP DATABASE "{stranger}_aside"')


async def test_nothing_is_found_when_there_is_no_such_database(server: Server, owner: Owner) -> None:
    async with server.session() as session:
        assert await adoption.adopt(session, owner, "no_such_database", ()) is None
        assert await adoption.owner_of(session, "no_such_database") is None


async def test_database_stays_adopted_when_it_is_adopted_again(
    server: Server, owner: Owner, stranger: str
) -> None:
    async with server.session() as session:
        for _ in range(2):
            found = await adoption.adopt(session, owner, stranger, ())
            assert found is not None
            assert (found.adopted, found.obstacle) == (True, None)
        assert await adoption.owner_of(session, stranger) == Owner.read(owner.comment)


async def test_generation_of_the_template_stays_known_when_a_database_is_adopted_again(
    server: Server, owner: Owner, stranger: str
) -> None:
    known = replace(owner, template_generation=4)
    async with server.session() as session:
        for each in (known, owner):
            await adoption.adopt(session, each, stranger, ())
        assert await adoption.owner_of(session, stranger) == Owner.read(known.comment)


@pytest.mark.parametrize(
    ("connects", "reads_statistics", "told"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
async def test_size_is_told_when_the_role_may_connect_or_read_statistics(
    server: Server,
    owner: Owner,
    stranger: str,
    admin: asyncpg.Connection,
    *,
    connects: bool,
    reads_statistics: bool,
    told: bool,
) -> None:
    role = seeding.SERVICE_ROLE
    await admin.execute(f'ALTER DATABASE "{stranger}" OWNER TO postgres')
    if not connects:
        await admin.execute(f'REVOKE CONNECT ON DATABASE "{stranger}" FROM PUBLIC')
    try:
        async with nullcontext() if reads_statistics else without_statistics(admin):
            found = await _inspected(server, owner, stranger)
    finally:
        await admin.execute(f'ALTER DATABASE "{stranger}" OWNER TO {role}')
    assert (found.size_bytes is not None) is told
    assert "does not own the database" in str(found.obstacle)
