"""Giving an instance's database another name, with its users, and no other database."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ods.databases import activating
from ods.databases.activating import rename, rename_back
from ods.databases.dropping import drop
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.lookup import DatabaseRows, find
from ods.databases.ownership import LeftName, Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from tests.postgres.owners import requesting
from tests.postgres.postgres_inspection import (
    exchanging_by_hand,
    exists,
    fingerprint,
    make_foreign,
    oid_of,
    persistent_sessions,
    row_of,
    still_due,
    until,
    waits_for_names,
)
from tests.servers import NUMBERS, session


@pytest.fixture
async def new_name(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A name for the database; whatever has it in the end is removed."""
    name = f"EdFi_Ods_Renamed_{next(NUMBERS)}_Minimal"
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
async def provisioned(server: Server, wanted: CloneRequest) -> CloneRequest:
    async with server.fenced(wanted.owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
    return wanted


async def renamed(server: Server, wanted: CloneRequest, name: str, current: str | None = None) -> None:
    async with server.fenced(wanted.owner) as fenced:
        await rename(server, fenced, wanted.owner, current or wanted.database, name)


async def test_database_is_the_same_under_another_name_when_it_is_renamed_and_back(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    before = await row_of(admin, provisioned.database)
    assert before is not None
    for name, other in ((new_name, provisioned.database), (provisioned.database, new_name)):
        for _ in range(2):  # the second time there is nothing to do
            await renamed(server, provisioned, name, other)
            after = await row_of(admin, name)
            assert after is not None
            assert {**after, "datname": provisioned.database, "comment": before["comment"]} == dict(before)
            marked, marked_before = Owner.read(after["comment"]), Owner.read(before["comment"])
            assert marked is not None
            assert marked.left[-1] == LeftName(other)  # the second time as well
            assert replace(marked, left=()) == marked_before  # but for the time
            assert not await exists(admin, other)


async def test_database_is_not_renamed_by_a_registry_of_yesterday(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    yesterday = requesting(wanted.owner)
    async with server.fenced(wanted.owner) as fenced:
        await provision(fenced, replace(wanted, owner=requesting(wanted.owner)), TemplateSizes())
        with pytest.raises(DisagreementError, match="restored to an earlier state"):
            await rename(server, fenced, yesterday, wanted.database, new_name)
        with pytest.raises(DisagreementError, match="The registry does not know the state"):
            await drop(fenced, yesterday, [wanted.database], published=True, before=still_due)
    assert await exists(admin, wanted.database)


async def test_database_has_its_old_name_when_a_rename_is_undone(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await renamed(server, provisioned, new_name)
    async with server.fenced(provisioned.owner) as fenced:
        for _ in range(2):  # the second time there is nothing to do
            await rename_back(server, fenced, provisioned.owner, provisioned.database, new_name)
            assert await exists(admin, provisioned.database)
            assert not await exists(admin, new_name)


async def test_nothing_is_done_when_a_rename_is_undone_that_left_the_database_its_name(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection
) -> None:
    async with server.fenced(provisioned.owner) as fenced:
        await rename_back(server, fenced, provisioned.owner, provisioned.database, provisioned.database)
    assert await exists(admin, provisioned.database)


async def test_database_is_renamed_when_many_sessions_keep_reconnecting(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection, reader: str, new_name: str
) -> None:
    async with persistent_sessions(admin, reader, provisioned.database, 20), asyncio.timeout(10):
        await renamed(server, provisioned, new_name)
        assert await exists(admin, new_name)
        assert not await exists(admin, provisioned.database)


async def test_nothing_changes_and_the_reason_is_told_when_a_superuser_is_connected(
    server: Server,
    provisioned: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    new_name: str,
) -> None:
    before = await row_of(admin, provisioned.database)
    async with session(postgres.dsn(provisioned.database)) as busy:
        with pytest.raises(DatabaseFaultError, match="close the sessions of superusers by hand") as fault:
            await renamed(server, provisioned, new_name)
        assert not fault.value.retryable
        assert await busy.fetchval("SELECT 1") == 1
    assert await row_of(admin, provisioned.database) == before
    async with server.connected(provisioned.database) as open_still:
        assert await open_still.fetchval("SELECT 1") == 1
    assert not await exists(admin, new_name)


@pytest.mark.parametrize("comment", [None, "mine"])
async def test_both_databases_are_untouched_when_a_foreign_database_has_the_new_name(
    server: Server,
    provisioned: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    new_name: str,
    comment: str | None,
) -> None:
    await make_foreign(admin, postgres.dsn(), new_name, comment)
    before = [await fingerprint(admin, name) for name in (new_name, provisioned.database)]
    with pytest.raises(NotOursError, match=new_name):
        await renamed(server, provisioned, new_name)
    assert [await fingerprint(admin, name) for name in (new_name, provisioned.database)] == before


async def test_foreign_database_is_untouched_when_it_took_the_name_at_the_last_moment(
    server: Server,
    provisioned: CloneRequest,
    admin: asyncpg.Connection,
    new_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def just_before(*asked: Any) -> DatabaseRows:
        answer = await find(*asked)
        await admin.execute(f'CREATE DATABASE "{new_name}"')
        return answer

    monkeypatch.setattr(activating, "find", just_before)
    with pytest.raises(NotOursError):
        await renamed(server, provisioned, new_name)
    assert await exists(admin, provisioned.database)


async def test_reason_is_told_when_no_database_of_these_names_carries_the_mark(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres, new_name: str
) -> None:
    with pytest.raises(DatabaseFaultError, match=r"database does not exist.*`ods drift` tells") as fault:
        await renamed(server, wanted, new_name)
    assert not fault.value.retryable
    await make_foreign(admin, postgres.dsn(), wanted.database)
    before = await fingerprint(admin, wanted.database)
    with pytest.raises(NotOursError, match="without its comment, hand it over"):
        await renamed(server, wanted, new_name)
    assert await fingerprint(admin, wanted.database) == before


async def test_rename_ends_on_the_server_when_it_is_cancelled(
    server: Server,
    provisioned: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    new_name: str,
) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE%RENAME%' AND state = 'active'"
    async with session(postgres.dsn()) as other, other.transaction():
        await other.execute(f'COMMENT ON DATABASE "{provisioned.database}" IS NULL')  # it holds the rename up
        task = asyncio.create_task(renamed(server, provisioned, new_name))
        await until(lambda: admin.fetch(waiting))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await admin.fetch(waiting)
    assert await exists(admin, provisioned.database)


async def test_only_databases_with_the_whole_mark_are_own_when_others_mention_it(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    await admin.execute(f'CREATE DATABASE "{new_name}"')
    await admin.execute(f"COMMENT ON DATABASE \"{new_name}\" IS 'copy of {provisioned.owner.mark}'")
    await renamed(server, provisioned, f"{new_name} 2")
    assert await exists(admin, new_name)
    await admin.execute(f'DROP DATABASE "{new_name} 2"')


async def test_no_other_database_is_renamed_when_names_are_exchanged_by_hand_meanwhile(
    server: Server, provisioned: CloneRequest, admin: asyncpg.Connection, new_name: str
) -> None:
    """Until that is committed, the names are as they were; a rename that waits for it follows the name."""
    async with exchanging_by_hand(admin, provisioned.database) as (own, other):
        renaming = asyncio.create_task(renamed(server, provisioned, new_name))
        await until(lambda: waits_for_names(admin))
    with pytest.raises(DatabaseFaultError, match="has changed which database") as fault:
        await renaming
    assert fault.value.retryable
    assert not await exists(admin, new_name)
    assert await oid_of(admin, provisioned.database) == other
    assert await oid_of(admin, f"{provisioned.database}_aside") == own
    with pytest.raises(DisagreementError, match="_aside"):
        await renamed(server, provisioned, new_name)
