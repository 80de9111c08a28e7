"""Removing an instance's database, with its users, and no other database."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from unittest.mock import AsyncMock

import asyncpg
import pytest

from ods.databases import dropping
from ods.databases.adoption import let_go
from ods.databases.dropping import drop
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from tests.postgres.postgres_inspection import (
    FENCES_HELD,
    comment_on,
    exchange_names,
    exchanging_by_hand,
    exists,
    fingerprint,
    holding_comment,
    make_foreign,
    oid_of,
    persistent_sessions,
    row_of,
    still_due,
    until,
)
from tests.servers import session


async def provisioned(server: Server, wanted: CloneRequest) -> None:
    async with server.fenced(wanted.owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())


async def dropped(
    server: Server,
    wanted: CloneRequest,
    *,
    published: bool = True,
    before: Callable[[], Awaitable[object]] = still_due,
) -> None:
    async with server.fenced(wanted.owner) as fenced:
        await drop(fenced, wanted.owner, [wanted.database], published=published, before=before)


async def test_database_is_removed_when_fifty_sessions_keep_reconnecting(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, reader: str
) -> None:
    await provisioned(server, wanted)
    async with persistent_sessions(admin, reader, wanted.database, 50), asyncio.timeout(5):
        await dropped(server, wanted)
        assert not await exists(admin, wanted.database)


async def test_own_database_is_removed_when_it_is_there(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    await admin.execute(f'CREATE DATABASE "{wanted.owner.staging_name}" OWNER ods_service')
    later = replace(wanted, owner=replace(wanted.owner, job_id="DeleteInstanceJob-1-2"))
    await dropped(server, later)
    assert not await exists(admin, wanted.database)
    assert not await exists(admin, wanted.owner.staging_name)


async def test_own_database_stays_when_the_registry_does_not_know_that_it_was_published(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    """The registry was restored to before that: the database may have been used since."""
    await provisioned(server, wanted)
    with pytest.raises(DisagreementError, match=r"knows nothing of that.*Nothing was dropped.*Detach"):
        await dropped(server, wanted, published=False)
    assert await exists(admin, wanted.database)
    async with server.fenced(wanted.owner) as session:  # as it says, also where the trash is off
        await let_go(server, session, wanted.owner, [wanted.database], published=False)
    assert await exists(admin, wanted.database)


@pytest.mark.parametrize("published", [True, False])
async def test_all_is_well_when_there_is_nothing_to_remove(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, *, published: bool
) -> None:
    before = await admin.fetch("SELECT datname FROM pg_database ORDER BY 1")
    await dropped(server, wanted, published=published)
    assert await admin.fetch("SELECT datname FROM pg_database ORDER BY 1") == before


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("comment", [None, "another instance"])
async def test_foreign_database_is_untouched_when_it_has_the_name(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    comment: str | None,
    *,
    published: bool,
) -> None:
    if comment is not None:
        comment = replace(wanted.owner, mark="6b1f0f6e-1111-4222-8333-444444444444").comment
    await make_foreign(admin, postgres.dsn(), wanted.database, comment)
    await admin.execute(
        f'ALTER DATABASE "{wanted.database}" OWNER TO ods_service'
    )  # nothing else protects it
    before = await fingerprint(admin, wanted.database)
    if published:
        with pytest.raises(NotOursError, match=f"'{wanted.database}'.*untouched"):
            await dropped(server, wanted)
    else:
        await dropped(server, wanted, published=False)
    assert await fingerprint(admin, wanted.database) == before


async def test_staging_leftover_is_removed_when_a_foreign_database_has_the_name(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await make_foreign(admin, postgres.dsn(), wanted.database)
    await admin.execute(f'CREATE DATABASE "{wanted.owner.staging_name}" OWNER ods_service')
    await dropped(server, wanted, published=False)
    assert not await exists(admin, wanted.owner.staging_name)
    assert await exists(admin, wanted.database)


async def test_removal_is_finished_when_it_was_interrupted(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", wanted.database)
    await dropped(server, wanted)
    assert not await exists(admin, wanted.database)


async def test_other_database_stays_when_it_takes_the_place_of_a_half_dropped_one_meanwhile(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    """An operator exchanges the names in one transaction, which the DROP has to wait for."""
    database, broken = wanted.database, f"{wanted.database}_broken"
    await provisioned(server, wanted)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", database)
    await admin.execute(f'CREATE DATABASE "{database}_restored" OWNER ods_service')
    async with session(postgres.dsn()) as other:
        async with other.transaction():
            await other.execute(f'ALTER DATABASE "{database}" RENAME TO "{broken}"')
            await other.execute(f'ALTER DATABASE "{database}_restored" RENAME TO "{database}"')
            dropping_it = asyncio.create_task(dropped(server, wanted))
            done, _ = await asyncio.wait({dropping_it}, timeout=0.3)
            assert not done
        with pytest.raises(DatabaseFaultError, match="meanwhile"):
            await dropping_it
    assert await exists(admin, database)
    await admin.execute(f'DROP DATABASE "{broken}"')
    await admin.execute(f'DROP DATABASE "{database}"')


async def test_neither_is_dropped_when_two_carry_the_mark_of_the_database(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    copy = f"{wanted.database}_copy"
    await admin.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{wanted.database}"')
    row = await row_of(admin, wanted.database)
    assert row is not None
    await comment_on(admin, copy, row["comment"])
    with pytest.raises(DisagreementError, match="Both"):
        await dropped(server, wanted)
    assert await exists(admin, wanted.database)
    await admin.execute(f'DROP DATABASE "{copy}"')


async def test_database_is_closed_and_the_reason_told_when_a_superuser_is_connected(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await provisioned(server, wanted)
    async with session(postgres.dsn(wanted.database)) as superuser:
        with pytest.raises(DatabaseFaultError) as caught:
            await dropped(server, wanted)
        assert await superuser.fetchval("SELECT 1") == 1
    assert not caught.value.retryable
    assert "close the sessions of superusers by hand" in caught.value.reason
    assert wanted.database in caught.value.reason
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert (row["datallowconn"], row["datconnlimit"]) == (False, -1)
    await dropped(server, wanted)
    assert not await exists(admin, wanted.database)


async def test_reason_names_the_right_when_sessions_may_not_be_ended(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, reader: str
) -> None:
    await provisioned(server, wanted)
    await admin.execute("REVOKE pg_signal_backend FROM ods_service")
    try:
        async with session(f"{reader}/{wanted.database}"):
            with pytest.raises(DatabaseFaultError, match="grant it pg_signal_backend") as caught:
                await dropped(server, wanted)
    finally:
        await admin.execute("GRANT pg_signal_backend TO ods_service")
    assert not caught.value.retryable
    await dropped(server, wanted)


async def test_reason_names_the_owner_when_the_database_was_given_away(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    await admin.execute(f'ALTER DATABASE "{wanted.database}" OWNER TO postgres')
    with pytest.raises(DatabaseFaultError, match="Make it the owner") as caught:
        await dropped(server, wanted)
    assert not caught.value.retryable
    assert await exists(admin, wanted.database)


async def test_reason_names_the_mark_when_the_database_was_made_a_template(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    await admin.execute(f'ALTER DATABASE "{wanted.database}" IS_TEMPLATE true')
    with pytest.raises(DatabaseFaultError, match=f'"{wanted.database}" IS_TEMPLATE false') as caught:
        await dropped(server, wanted)
    assert not caught.value.retryable
    await admin.execute(f'ALTER DATABASE "{wanted.database}" IS_TEMPLATE false')
    await dropped(server, wanted)
    assert not await exists(admin, wanted.database)


@pytest.mark.parametrize("moment", ["drop_found_staging", "end_all"])
async def test_database_stays_open_when_an_operator_has_let_it_go_meanwhile(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """Another tenant may have adopted it by then."""
    await provisioned(server, wanted)

    async def let_it_go(*_: object) -> None:
        await admin.execute(f'COMMENT ON DATABASE "{wanted.database}" IS NULL')

    monkeypatch.setattr(dropping, moment, let_it_go)
    with pytest.raises(DatabaseFaultError, match="Nothing was done"):
        await dropped(server, wanted)
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert row["datallowconn"] is (moment == "drop_found_staging")


async def test_no_other_database_is_dropped_when_it_has_got_the_name_by_hand_meanwhile(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the staging database is dropped, which takes its time."""
    await provisioned(server, wanted)
    oids: list[int | None] = []

    async def exchange_by_hand(*_: object) -> None:
        async with exchanging_by_hand(admin, wanted.database) as both:
            oids.extend(both)

    monkeypatch.setattr(dropping, "drop_found_staging", exchange_by_hand)
    with pytest.raises(DatabaseFaultError, match="has changed which database") as fault:
        await dropped(server, wanted)
    assert fault.value.retryable
    own, other = oids
    assert await oid_of(admin, wanted.database) == other
    assert await oid_of(admin, f"{wanted.database}_aside") == own
    row = await row_of(admin, wanted.database)
    assert row is not None
    assert row["datallowconn"]


async def test_no_other_database_is_dropped_when_it_has_got_the_name_while_the_drop_waits_for_a_lock(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> None:
    await provisioned(server, wanted)
    name, asked, exchanged = wanted.database, asyncio.Event(), asyncio.Event()
    await admin.execute(f'CREATE DATABASE "{name}_other" OWNER ods_service STRATEGY file_copy')
    oids = await oid_of(admin, name), await oid_of(admin, f"{name}_other")
    answers = iter([still_due, exchanged.wait])

    async def before() -> None:
        answer = next(answers)
        if answer is not still_due:
            asked.set()
        await answer()

    async with holding_comment(admin, name):
        dropping = asyncio.create_task(dropped(server, wanted, before=before))
        async with asyncio.timeout(5):
            await asked.wait()
        await exchange_names(admin, name)
    exchanged.set()
    with pytest.raises(DatabaseFaultError, match="has changed which database"):
        await dropping
    assert oids == (await oid_of(admin, f"{name}_aside"), await oid_of(admin, name))


async def test_holder_of_the_lock_is_named_when_the_drop_has_waited_for_it_in_vain(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "_LONGEST_WAIT_SECONDS", 0.2)
    await provisioned(server, wanted)
    async with holding_comment(admin, wanted.database):
        with pytest.raises(DatabaseFaultError, match=f"process {admin.get_server_pid()} ") as fault:
            await dropped(server, wanted)
    assert fault.value.outage
    await dropped(server, wanted)
    assert not await exists(admin, wanted.database)


async def test_database_stays_when_a_session_does_not_end(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    reader: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dropping, "_LONGEST_WAIT_SECONDS", 0.2)
    await provisioned(server, wanted)
    async with session(f"{reader}/{wanted.database}") as other:
        os.kill(other.get_server_pid(), signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseFaultError, match="Sessions on the database") as fault:
                await dropped(server, wanted, before=AsyncMock(side_effect=AssertionError))
        finally:
            os.kill(other.get_server_pid(), signal.SIGCONT)
    assert fault.value.retryable
    assert await exists(admin, wanted.database)
    await dropped(server, wanted)


async def test_database_stays_when_the_worker_was_suspended_after_it_has_asked(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "_LONGEST_PAUSE", "100ms")
    await provisioned(server, wanted)

    async def suspended() -> None:
        assert await admin.fetchval(FENCES_HELD)
        await until(no_fence_is_held)

    async def no_fence_is_held() -> bool:
        return not await admin.fetchval(FENCES_HELD)

    with pytest.raises(DatabaseFaultError) as fault:
        await dropped(server, wanted, before=suspended)
    assert fault.value.outage
    assert await exists(admin, wanted.database)
    await dropped(server, wanted)
    assert not await exists(admin, wanted.database)
