"""Which database is an instance's, whether it can be used, and who published it."""

from dataclasses import replace

import asyncpg
import pytest

from ods.databases.dropping import drop_obstacle
from ods.databases.lookup import published_as
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server

_OTHER_MARK = "6b1f0f6e-1111-4222-8333-444444444444"


@pytest.fixture
async def published(server: Server, wanted: CloneRequest) -> CloneRequest:
    """An instance with a published database."""
    async with server.fenced(wanted.owner) as session:
        await provision(session, wanted, TemplateSizes())
    return wanted


async def publisher(server: Server, wanted: CloneRequest) -> str | None:
    """The job that published the database, if that can be used."""
    async with server.session() as session:
        found = await published_as(session, wanted.owner, wanted.database)
    return None if found is None else found.job_id


async def obstacle(server: Server, wanted: CloneRequest) -> str | None:
    async with server.session() as session:
        return await drop_obstacle(session, wanted.owner, [wanted.database])


async def test_publisher_is_told_when_the_database_can_be_used(
    server: Server, published: CloneRequest
) -> None:
    assert await publisher(server, published) == published.owner.job_id


@pytest.mark.parametrize("mark", [_OTHER_MARK, "ffffffff-ffff-4fff-8fff-ffffffffffff"])
async def test_no_publisher_is_told_when_the_database_is_another_instance_s(
    server: Server, published: CloneRequest, mark: str
) -> None:
    assert await publisher(server, replace(published, owner=replace(published.owner, mark=mark))) is None


async def test_no_publisher_is_told_when_there_is_no_database(server: Server, wanted: CloneRequest) -> None:
    assert await publisher(server, wanted) is None


@pytest.mark.parametrize("change", ["datallowconn = false", "datconnlimit = -2"])
async def test_no_publisher_is_told_when_the_database_cannot_be_used(
    server: Server, published: CloneRequest, admin: asyncpg.Connection, change: str
) -> None:
    await admin.execute(f"UPDATE pg_database SET {change} WHERE datname = '{published.database}'")  # noqa: S608 - ours
    assert await publisher(server, published) is None


async def test_delete_meets_no_obstacle_when_the_database_is_the_instance_s(
    server: Server, published: CloneRequest
) -> None:
    assert await obstacle(server, published) is None


async def test_delete_meets_an_obstacle_when_the_database_is_another_instance_s(
    server: Server, published: CloneRequest
) -> None:
    other = replace(published, owner=replace(published.owner, mark=_OTHER_MARK))
    assert str(await obstacle(server, other)).startswith(f"A database named '{published.database}'")
