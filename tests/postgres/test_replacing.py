"""Putting another database in the place of an instance's, on a real server."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from ods.databases import activating, dropping, replacing, retiring
from ods.databases.errors import DatabaseFaultError, DisagreementError
from ods.databases.ownership import LeftName, Owner, with_left
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.replacing import Exchange, Stage
from ods.databases.retiring import TrashJob
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.naming import reset_name, trash_name
from tests.postgres.owners import by_another, requesting
from tests.postgres.postgres_inspection import (
    comment_on,
    exists,
    persistent_sessions,
    row_of,
    still_due,
    until,
)
from tests.servers import service_dsn, session

_IS_RENAMING = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE state = 'active' AND position('ALTER DATABASE "' || $1 || '" RENAME' IN query) > 0
"""


@pytest.fixture
async def exchange(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> AsyncIterator[Exchange]:
    """A reset, the second job of an instance that has its database; the fresh one is there as well."""
    other = str(uuid.uuid4())
    owner = requesting(wanted.owner, wanted.owner.database_id, other)
    owner = replace(owner, job_id="ResetInstanceJob-1-2", number=2)
    successor = owner.of_database(other)
    exchange = Exchange(
        current=owner,
        successor=successor,
        database=wanted.database,
        other=reset_name(str(successor.database_id)),
        replaced=trash_name(owner.database_id),
        from_trash=False,
    )
    async with server.fenced(owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
        fresh = replace(wanted, owner=replace(successor, revision=None), database=exchange.other)
        await provision(fenced, fresh, TemplateSizes())
    yield exchange
    for name in (exchange.other, exchange.replaced, trash_name(exchange.successor.database_id)):
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def undone(exchange: Exchange) -> Exchange:
    """The undo of this reset, as the third job."""
    had, has = exchange.current.database_id, exchange.successor.database_id
    owner = replace(requesting(exchange.current, had, has), job_id="UndoResetInstanceJob-1-3", number=3)
    return Exchange(
        current=owner.of_database(has),
        successor=owner.of_database(had),
        database=exchange.database,
        other=exchange.replaced,
        replaced=trash_name(has),
        from_trash=True,
    )


async def take_place(server: Server, exchange: Exchange) -> None:
    async with server.fenced(exchange.current) as fenced:
        await replacing.take_place(server, fenced, exchange)


async def give_up(server: Server, exchange: Exchange, *, deleted: bool = False) -> bool:
    """Whether the other one had taken the place."""
    async with server.fenced(exchange.current) as fenced:
        return await replacing.discard_other(fenced, exchange, deleted=deleted) is not None


async def stage(server: Server, exchange: Exchange) -> Stage:
    async with server.session() as reading:
        return await replacing.stage(reading, exchange)


async def oid(admin: asyncpg.Connection, database: str) -> int | None:
    found: int | None = await admin.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", database)
    return found


async def test_names_are_exchanged_and_marks_kept_when_a_database_takes_the_place(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    old, fresh = await oid(admin, exchange.database), await oid(admin, exchange.other)
    for _ in range(2):  # the second time there is nothing to do
        await take_place(server, exchange)
        assert (await oid(admin, exchange.database), await oid(admin, exchange.replaced)) == (fresh, old)
    assert not await exists(admin, exchange.other)
    assert await stage(server, exchange) is Stage.EXCHANGED
    now, before = await row_of(admin, exchange.database), await row_of(admin, exchange.replaced)
    assert now is not None
    assert before is not None
    assert (now["datallowconn"], before["datallowconn"]) == (True, False)
    marked, trashed = Owner.read(now["comment"]), Owner.read(before["comment"])
    assert marked is not None
    assert trashed is not None
    assert (marked.revision, marked.trashed_name) == (exchange.successor.revision, None)
    assert (trashed.revision, trashed.trashed_name) == (exchange.current.revision, exchange.database)
    assert exchange.successor.owns(now["comment"])
    assert exchange.current.owns(before["comment"])
    assert not exchange.current.owns(now["comment"])


async def test_names_that_renames_have_left_stay_reserved_by_the_database_that_takes_the_place(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    """The other one may be dropped soon."""
    row = await row_of(admin, exchange.database)
    assert row is not None
    left = (LeftName("EdFi_Ods_Left_Minimal", datetime(2026, 1, 31, tzinfo=UTC)),)
    await comment_on(admin, exchange.database, with_left(row["comment"], left))
    for step in (exchange, undone(exchange)):
        await take_place(server, step)
        rows = [await row_of(admin, name) for name in (step.database, step.replaced)]
        owners = [Owner.read(one["comment"]) for one in rows if one is not None]
        assert [one.left for one in owners if one is not None] == [left, ()]


async def test_databases_are_as_before_when_the_exchange_is_undone(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    old, fresh = await oid(admin, exchange.database), await oid(admin, exchange.other)
    await take_place(server, exchange)
    back = undone(exchange)
    for _ in range(2):
        await take_place(server, back)
        assert (await oid(admin, exchange.database), await oid(admin, back.replaced)) == (old, fresh)
    row = await row_of(admin, exchange.database)
    assert row is not None
    assert row["datallowconn"]
    assert not await exists(admin, exchange.replaced)


async def test_databases_are_exchanged_when_many_sessions_keep_reconnecting(
    server: Server, exchange: Exchange, admin: asyncpg.Connection, reader: str
) -> None:
    fresh = await oid(admin, exchange.other)
    async with persistent_sessions(admin, reader, exchange.database, 20):
        await take_place(server, exchange)
    assert await oid(admin, exchange.database) == fresh


async def test_nothing_is_exchanged_when_sessions_of_a_superuser_do_not_end(
    server: Server, exchange: Exchange, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    before = await row_of(admin, exchange.database)
    async with session(postgres.dsn(exchange.database)) as superuser:
        with pytest.raises(DatabaseFaultError, match="close the sessions of superusers by hand"):
            await take_place(server, exchange)
        assert await superuser.fetchval("SELECT 1") == 1
    assert await row_of(admin, exchange.database) == before
    assert await stage(server, exchange) is Stage.READY


@pytest.mark.parametrize("after", ["the first rename", "the second rename", "all"])
async def test_both_are_whole_under_their_names_when_the_backend_dies_within_the_exchange(
    server: Server,
    exchange: Exchange,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    """Either all has happened or nothing, and trying again ends it."""
    old, fresh = await oid(admin, exchange.database), await oid(admin, exchange.other)
    statements = replacing._EXCHANGE  # noqa: SLF001 - the backend dies between two of them
    place = {"the first rename": 3, "the second rename": 4, "all": len(statements)}[after]
    dying = (*statements[:place], "SELECT pg_terminate_backend(pg_backend_pid())", *statements[place:])
    monkeypatch.setattr(replacing, "_EXCHANGE", dying)
    with pytest.raises(DatabaseFaultError) as raised:
        await take_place(server, exchange)
    assert raised.value.outage
    assert (await oid(admin, exchange.database), await oid(admin, exchange.other)) == (old, fresh)
    monkeypatch.undo()
    await take_place(server, exchange)
    assert (await oid(admin, exchange.database), await oid(admin, exchange.replaced)) == (fresh, old)


@pytest.mark.parametrize("which", ["database", "other"])
@pytest.mark.parametrize("change", ["renamed", "marked"])
async def test_nothing_is_exchanged_when_another_session_changes_a_database_just_before(
    server: Server,
    exchange: Exchange,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    change: str,
) -> None:
    """It is not what was examined: another database has its name, or another mark is on it."""
    changed: str = getattr(exchange, which)

    async def change_first(*arguments: object, **reasons: object) -> None:
        if change == "renamed":
            await admin.execute(f'ALTER DATABASE "{changed}" RENAME TO "{changed}_b"')
            await admin.execute(f'CREATE DATABASE "{changed}"')
        else:
            await comment_on(admin, changed, "mine")
        await execute(*arguments, **reasons)  # type: ignore[arg-type]

    monkeypatch.setattr(replacing, "execute", change_first)
    names = (exchange.database, exchange.other, f"{changed}_b")
    with pytest.raises(DatabaseFaultError, match="Neither was renamed"):
        await take_place(server, exchange)
    found = {name: await oid(admin, name) for name in names}
    assert not await exists(admin, exchange.replaced)
    assert found[exchange.database] is not None
    assert found[exchange.other] is not None
    await admin.execute(f'DROP DATABASE IF EXISTS "{changed}_b"')


async def test_only_what_was_made_is_dropped_when_the_reset_has_failed(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    before = await row_of(admin, exchange.database)
    for _ in range(2):
        assert not await give_up(server, exchange)
        assert not await exists(admin, exchange.other)
    assert await row_of(admin, exchange.database) == before


async def test_neither_is_dropped_when_they_were_exchanged_before_the_reset_failed(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await take_place(server, exchange)
    before = [await row_of(admin, name) for name in (exchange.database, exchange.replaced)]
    assert await give_up(server, exchange)
    assert [await row_of(admin, name) for name in (exchange.database, exchange.replaced)] == before


async def test_what_is_in_the_trash_stays_when_the_undo_has_failed(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await take_place(server, exchange)
    before = [await row_of(admin, name) for name in (exchange.database, exchange.replaced)]
    assert not await give_up(server, undone(exchange))
    assert [await row_of(admin, name) for name in (exchange.database, exchange.replaced)] == before


async def test_what_was_made_stays_when_the_instances_own_is_missing(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await admin.execute(f'DROP DATABASE "{exchange.database}"')
    assert not await give_up(server, exchange)
    with pytest.raises(DisagreementError, match="does not exist"):
        await take_place(server, exchange)
    assert await exists(admin, exchange.other)


async def test_what_was_made_is_dropped_when_the_instance_is_deleted_and_its_own_is_missing(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    """As after a delete by another product, which drops the database itself."""
    await admin.execute(f'DROP DATABASE "{exchange.database}"')
    assert not await give_up(server, exchange, deleted=True)
    assert not await exists(admin, exchange.other)


async def test_what_was_the_instances_stays_when_it_is_deleted(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await take_place(server, exchange)
    assert not await give_up(server, undone(exchange), deleted=True)
    async with server.fenced(exchange.current) as fenced:
        await replacing.drop_unknown(fenced, exchange.successor, [], deleted=True)
    assert await exists(admin, exchange.database)
    assert await exists(admin, exchange.replaced)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ('ALTER DATABASE "{database}" ALLOW_CONNECTIONS false', "accepts no connections"),
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{database}'", "DROP of the instance's"),
        ("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{other}'", "was interrupted"),
        ("COMMENT ON DATABASE \"{database}\" IS 'mine'", "does not belong to this instance"),
        ('ALTER DATABASE "{other}" RENAME TO "{other}_b"', "Rename it back"),
        ('COMMENT ON DATABASE "{other}" IS NULL', "There is no database"),
        ('CREATE DATABASE "{replaced}"', "does not belong to this instance"),
    ],
)
async def test_nothing_is_exchanged_when_registry_and_server_disagree(
    server: Server, exchange: Exchange, admin: asyncpg.Connection, fault: str, reason: str
) -> None:
    names = {"database": exchange.database, "other": exchange.other, "replaced": exchange.replaced}
    await admin.execute(fault.format(**names))
    before = await row_of(admin, exchange.database)
    with pytest.raises(DatabaseFaultError, match=reason):
        await take_place(server, exchange)
    assert await row_of(admin, exchange.database) == before
    await admin.execute(f'DROP DATABASE IF EXISTS "{exchange.other}_b"')
    await admin.execute(
        "UPDATE pg_database SET datconnlimit = -1 WHERE datname = ANY($1)", list(names.values())
    )


async def test_nothing_is_exchanged_when_the_database_was_published_later_than_the_registry_knows(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await comment_on(admin, exchange.database, by_another(exchange.current).comment)
    before = await row_of(admin, exchange.database)
    with pytest.raises(DisagreementError, match="later than the registry knows"):
        await take_place(server, exchange)
    assert await row_of(admin, exchange.database) == before


async def test_nothing_comes_back_when_the_comment_does_not_say_that_it_is_in_the_trash(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    await take_place(server, exchange)
    await comment_on(admin, exchange.replaced, exchange.current.comment)
    with pytest.raises(DisagreementError, match="does not say that it is in the trash"):
        await take_place(server, undone(exchange))
    assert await exists(admin, exchange.replaced)


async def test_registry_follows_the_server_when_that_was_restored_to_before_the_reset(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    """The registry has the fresh one, the server has the old one alone, under the instance's name."""
    await admin.execute(f'DROP DATABASE "{exchange.other}"')
    before = await oid(admin, exchange.database)
    undo = undone(exchange)
    await take_place(server, undo)
    row = await row_of(admin, exchange.database)
    assert row is not None
    marked = Owner.read(row["comment"])
    assert (row["oid"], marked and marked.revision) == (before, undo.successor.revision)


async def test_nothing_passes_for_undone_when_the_comment_has_lost_the_mark_of_the_database(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    """As by hand: both comments are those of the replaced one."""
    await take_place(server, exchange)
    await comment_on(admin, exchange.database, exchange.current.comment)
    before = [await row_of(admin, name) for name in (exchange.database, exchange.replaced)]
    with pytest.raises(DisagreementError, match=r"carries the mark of this instance, .* `ods recover`"):
        await take_place(server, undone(exchange))
    assert not await give_up(server, undone(exchange))
    assert [await row_of(admin, name) for name in (exchange.database, exchange.replaced)] == before


@pytest.mark.parametrize(
    "job", ["drop", "drop of what was never there", "trash", "rename", "undelete", "make"]
)
async def test_operator_is_not_told_to_remove_the_only_database_when_the_registry_is_of_before_the_reset(
    server: Server, exchange: Exchange, wanted: CloneRequest, admin: asyncpg.Connection, job: str
) -> None:
    await take_place(server, exchange)
    await admin.execute(f'DROP DATABASE "{exchange.replaced}"')  # its time was over
    owner, database = exchange.current, exchange.database
    before = await row_of(admin, database)
    async with server.fenced(owner) as fenced:
        jobs = {
            "drop": dropping.drop(fenced, owner, [database], published=True, before=still_due),
            "drop of what was never there": dropping.drop(
                fenced, owner, [database], published=False, before=still_due
            ),
            "trash": retiring.retire(server, fenced, TrashJob(owner, [database], exchange.replaced)),
            "rename": activating.rename(server, fenced, owner, database, f"{database}_b"),
            "undelete": activating.take_out(server, fenced, owner, exchange.replaced, database),
            "make": provision(fenced, wanted, TemplateSizes()),
        }
        doing = jobs.pop(job)
        for other in jobs.values():
            other.close()
        with pytest.raises(DisagreementError, match=f"'{database}' carries .* `ods recover`") as told:
            await doing
    assert "emove" not in told.value.reason
    assert await row_of(admin, database) == before


async def test_leftover_is_dropped_when_the_registry_knows_of_no_reset(
    server: Server, exchange: Exchange, admin: asyncpg.Connection
) -> None:
    async with server.fenced(exchange.current) as fenced:
        own_is_away = replace(exchange.current, database_id=str(uuid.uuid4()))
        await replacing.drop_unknown(fenced, own_is_away, [])
        assert await exists(admin, exchange.other)
        await replacing.drop_unknown(fenced, exchange.current, [exchange.successor.database_id])
        assert await exists(admin, exchange.other)  # it is what the instance had before another reset
        await replacing.drop_unknown(fenced, exchange.current, [str(uuid.uuid4())])
    assert not await exists(admin, exchange.other)
    assert await exists(admin, exchange.database)


@pytest.mark.parametrize("deleted", [False, True])
async def test_instances_own_stays_when_the_server_is_of_before_the_exchange(
    server: Server, exchange: Exchange, admin: asyncpg.Connection, *, deleted: bool
) -> None:
    """The registry has recorded the reset: the database under the private name is the one that it knows."""
    async with server.fenced(exchange.successor) as fenced:
        await replacing.drop_unknown(fenced, exchange.successor, [], deleted=deleted)
    assert await exists(admin, exchange.other)
    assert await exists(admin, exchange.database)


@pytest.mark.timed
async def test_creates_are_not_held_up_when_an_exchange_waits_for_sessions(
    server: Server,
    exchange: Exchange,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    wanted: CloneRequest,
) -> None:
    owner = replace(wanted.owner, mark=str(uuid.uuid4()))
    other = replace(wanted, owner=owner, database=f"{wanted.database}_b")
    async with session(service_dsn(postgres, exchange.database)) as suspended:
        process = await suspended.fetchval("SELECT pg_backend_pid()")
        os.kill(process, signal.SIGSTOP)  # it cannot end, so the rename waits five seconds for it
        waiting = asyncio.create_task(take_place(server, exchange))
        try:
            await until(lambda: admin.fetchval(_IS_RENAMING, exchange.database))
            async with asyncio.timeout(4), server.fenced(owner) as fenced:
                await provision(fenced, other, TemplateSizes())
            assert not waiting.done()
        finally:
            await asyncio.wait([waiting])
            os.kill(process, signal.SIGCONT)
            assert waiting.exception() is not None
            await admin.execute(f'DROP DATABASE IF EXISTS "{other.database}"')
