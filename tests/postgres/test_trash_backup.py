"""Databases in the trash that are opened to be backed up, and dropped as they were backed up."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from ods.backups.errors import BackupFaultError
from ods.databases import activating, dropping, retiring, trash_backup
from ods.databases.droppable import find_in_trash
from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.ownership import KnownOwner, opened_by
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.retiring import TrashJob
from ods.databases.server import Server
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.instances.naming import trash_name
from tests.postgres.owners import forgetting, requesting
from tests.postgres.postgres_inspection import exists, holding_comment, row_of, still_due, until
from tests.servers import session

JOB = "PurgeInstanceJob-7-3"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
_END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1"
_IS_INVALID = "SELECT datconnlimit = -2 FROM pg_database WHERE datname = $1"
_CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%'"


@pytest.fixture
async def kept(
    owner: KnownOwner, server: Server, wanted: CloneRequest, admin: asyncpg.Connection
) -> AsyncIterator[str]:
    """The name of the instance's database in the trash."""
    name = trash_name(owner.database_id)
    async with server.fenced(owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
        assert await retiring.retire(
            server, fenced, TrashJob(replace(owner, number=2), [wanted.database], name)
        )
    yield name
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def trashed(owner: KnownOwner) -> KnownOwner:
    """The instance, as the registry knows it: the second job has put the database into the trash."""
    return replace(owner, number=2)


async def back_up(server: Server, trashed: KnownOwner, kept: str) -> str:
    """Open the database as for a backup; returns the state of the closed one."""
    async with server.fenced(trashed) as fenced:
        _, state = await trash_backup.while_open(fenced, trashed, kept, JOB, do_nothing)
        return state


async def do_nothing() -> None:
    """Stands for a backup, and for one that is stored."""


async def purge(
    server: Server,
    trashed: KnownOwner,
    kept: str,
    state: str | None,
    require_stored: Callable[[], Awaitable[None]] = do_nothing,
    before: Callable[[], Awaitable[None]] = still_due,
) -> bool:
    async with server.fenced(trashed) as fenced:
        return await trash_backup.purge_backed_up(fenced, trashed, kept, state, require_stored, before)


async def refuse() -> None:
    """Stands for a backup that is not stored any more, and for a job that is not due any more."""
    raise BackupFaultError("It is not stored any more.")


async def comment(admin: asyncpg.Connection, database: str, text: str) -> None:
    statement = await admin.fetchval(
        "SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)", database, text
    )
    await admin.execute(statement)


async def state_of(admin: asyncpg.Connection, database: str) -> tuple[bool, str | None]:
    """Whether the database is open, and which job says that it has opened it."""
    row = await row_of(admin, database)
    assert row is not None
    return row["datallowconn"], opened_by(row["comment"])


async def test_database_is_open_while_it_is_backed_up_and_closed_and_marked_as_before_afterwards(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    before = await row_of(admin, kept)

    async def work() -> int:
        assert await state_of(admin, kept) == (True, JOB)
        async with session(postgres.dsn(kept)) as inside:
            answer: int = await inside.fetchval("SELECT 42")
            return answer

    async with server.fenced(trashed) as fenced:
        answer, state = await trash_backup.while_open(fenced, trashed, kept, JOB, work)
        found = await find_in_trash(fenced, trashed, kept)
    after = await row_of(admin, kept)
    assert before is not None
    assert after is not None
    assert (answer, dict(after)) == (42, dict(before))
    assert found is not None
    assert (found.state, found.is_invalid) == (state, False)
    assert await purge(server, trashed, kept, state)
    assert not await exists(admin, kept)
    assert not await purge(server, trashed, kept, None), "nothing is left to drop"


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_database_is_closed_when_the_backup_has_failed_or_is_cancelled(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, *, is_cancelled: bool
) -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        if not is_cancelled:
            raise DatabaseFaultError("The disk is full.")
        await asyncio.Event().wait()

    async def run() -> None:
        async with server.fenced(trashed) as fenced:
            await trash_backup.while_open(fenced, trashed, kept, JOB, work)

    running = asyncio.create_task(run())
    await began.wait()
    if is_cancelled:
        running.cancel()
    with pytest.raises((DatabaseFaultError, asyncio.CancelledError)):
        await running
    assert await state_of(admin, kept) == (False, None)


async def test_no_session_is_on_the_database_any_more_when_its_backup_is_made(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, reader: str
) -> None:
    async def work() -> asyncpg.Connection:
        return await asyncpg.connect(f"{reader}/{kept}")

    async with server.fenced(trashed) as fenced:
        other, _ = await trash_backup.while_open(fenced, trashed, kept, JOB, work)
    assert await admin.fetchval(_SESSIONS, kept) == 0
    other.terminate()


async def test_backup_does_not_count_when_a_session_cannot_be_ended(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    """One of a superuser may go on writing."""
    others: list[asyncpg.Connection] = []

    async def work() -> None:
        others.append(await asyncpg.connect(postgres.dsn(kept)))

    with pytest.raises(DatabaseFaultError, match="close the sessions of superusers by hand"):
        async with server.fenced(trashed) as fenced:
            await trash_backup.while_open(fenced, trashed, kept, JOB, work)
    assert await state_of(admin, kept) == (False, JOB)
    await admin.fetch(_END, kept)
    others[0].terminate()
    assert await purge(server, trashed, kept, await back_up(server, trashed, kept))


async def test_database_is_backed_up_when_a_worker_that_died_has_left_it_open(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    await leave_open(admin, kept)
    state = await back_up(server, trashed, kept)
    assert await state_of(admin, kept) == (False, None)
    assert await purge(server, trashed, kept, state)


async def leave_open(admin: asyncpg.Connection, kept: str) -> None:
    row = await row_of(admin, kept)
    assert row is not None
    await comment(admin, kept, row["comment"].replace("{", f'{{"openedBy": "{JOB}", ', 1))
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')


async def test_database_is_purged_without_a_backup_when_one_was_interrupted_and_none_is_wanted(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    await leave_open(admin, kept)
    async with server.fenced(trashed) as fenced:
        assert await dropping.purge(fenced, trashed, kept, before=still_due)
    assert not await exists(admin, kept)


async def test_nothing_is_done_when_another_session_has_opened_the_database(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    state = await back_up(server, trashed, kept)
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
    with pytest.raises(DisagreementError, match="was opened, and may be in use"):
        await back_up(server, trashed, kept)
    with pytest.raises(DisagreementError, match="was opened, and may be in use"):
        await purge(server, trashed, kept, state)
    async with server.fenced(trashed) as fenced:
        await trash_backup.close_opened(fenced, trashed, kept)
    assert await state_of(admin, kept) == (True, None)


async def test_nothing_is_dropped_when_the_database_was_opened_and_closed_since_its_backup(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    state = await back_up(server, trashed, kept)
    for word in ("true", "false"):
        await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS {word}')
    with pytest.raises(DisagreementError, match="was opened or changed since it was backed up"):
        await purge(server, trashed, kept, state)
    assert await exists(admin, kept)
    assert await purge(server, trashed, kept, await back_up(server, trashed, kept))


async def test_nothing_is_dropped_when_there_is_no_verified_backup(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    await back_up(server, trashed, kept)
    with pytest.raises(DisagreementError, match="There is no verified backup"):
        await purge(server, trashed, kept, None)
    assert await exists(admin, kept)


async def interrupt_drop(admin: asyncpg.Connection, postgres: EmbeddedPostgres, database: str) -> None:
    """Begin to drop the database, which waits until each session has closed its files; then cancel that."""

    async def drop() -> None:
        async with session(postgres.dsn()) as dropping:
            await dropping.execute(f'DROP DATABASE "{database}"')

    async with session(postgres.dsn()) as other:
        suspended = await other.fetchval("SELECT pg_backend_pid()")
        os.kill(suspended, signal.SIGSTOP)
        try:
            running = asyncio.create_task(drop())
            await until(lambda: admin.fetchval(_IS_INVALID, database))
            await admin.execute(_CANCEL)
            with pytest.raises(asyncpg.QueryCanceledError):
                await running
        finally:
            os.kill(suspended, signal.SIGCONT)


async def test_drop_goes_on_when_it_was_interrupted_and_no_backup_is_made_of_what_is_left(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    state = await back_up(server, trashed, kept)
    await interrupt_drop(admin, postgres, kept)
    with pytest.raises(DisagreementError, match="A DROP of the database"):
        await back_up(server, trashed, kept)
    with pytest.raises(DisagreementError, match="There is no verified backup"):
        await purge(server, trashed, kept, None)
    assert await purge(server, trashed, kept, state, refuse), "nothing of it could be backed up again"
    assert not await exists(admin, kept)


async def test_nothing_is_dropped_when_the_backup_is_not_stored_any_more(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    state = await back_up(server, trashed, kept)
    with pytest.raises(BackupFaultError):
        await purge(server, trashed, kept, state, refuse)
    assert await exists(admin, kept)
    assert await purge(server, trashed, kept, state)
    assert not await purge(server, trashed, kept, state, refuse), "there is nothing to drop any more"


async def test_nothing_is_dropped_when_the_purge_is_cancelled_while_its_drop_waits_for_a_lock(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    state = await back_up(server, trashed, kept)
    answers = iter([still_due, still_due, refuse])

    async def before() -> None:
        await next(answers)()

    async with holding_comment(admin, kept):
        with pytest.raises(BackupFaultError):
            await purge(server, trashed, kept, state, before=before)
    assert await purge(server, trashed, kept, state), "neither state nor backup have changed"
    assert not await exists(admin, kept)


async def test_drop_does_not_go_on_when_what_is_left_is_not_what_was_backed_up(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    state = await back_up(server, trashed, kept)
    for word in ("true", "false"):
        await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS {word}')
    await interrupt_drop(admin, postgres, kept)
    with pytest.raises(DisagreementError, match=r"A DROP of the database .* cannot be backed up any more"):
        await purge(server, trashed, kept, state)
    assert await exists(admin, kept)


async def test_backup_still_counts_when_the_drop_could_not_begin(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    """While another session holds a lock on the database."""
    state = await back_up(server, trashed, kept)
    holding = admin.transaction()
    await holding.start()
    await admin.execute(f'ALTER DATABASE "{kept}" CONNECTION LIMIT 7')
    with pytest.raises(DatabaseFaultError):
        await purge(server, trashed, kept, state)
    await holding.rollback()
    assert await purge(server, trashed, kept, state)
    assert not await exists(admin, kept)


@pytest.fixture
async def put_back(owner: KnownOwner, server: Server, wanted: CloneRequest, kept: str) -> KnownOwner:
    """The instance, after an undelete that did not end: its database is in the trash again."""
    undelete = replace(owner, number=3)
    again = TrashJob(undelete, [wanted.database], kept, put_back=True)
    async with server.fenced(owner) as fenced:
        await activating.take_out(server, fenced, undelete, kept, wanted.database)
        assert await retiring.retire(server, fenced, again)
    return undelete


async def test_database_is_dropped_only_after_a_backup_when_an_undelete_has_put_it_back(
    server: Server, put_back: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    """By a registry that has forgotten how that ended, people may have used it since."""
    with pytest.raises(DisagreementError, match=r"put back.*Nothing was dropped.*final backup"):
        async with server.fenced(put_back) as fenced:
            await dropping.purge(fenced, put_back, kept, before=still_due)
    assert await purge(server, put_back, kept, await back_up(server, put_back, kept))
    assert not await exists(admin, kept)


async def test_database_that_was_put_back_is_dropped_when_a_drop_of_it_was_interrupted(
    server: Server, put_back: KnownOwner, kept: str, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    """Nothing else can be done with it."""
    await interrupt_drop(admin, postgres, kept)
    async with server.fenced(put_back) as fenced:
        assert await dropping.purge(fenced, put_back, kept, before=still_due)
    assert not await exists(admin, kept)


@pytest.mark.parametrize("knows_another", [True, False])
async def test_nothing_is_opened_when_the_registry_knows_an_earlier_delete(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection, *, knows_another: bool
) -> None:
    earlier = forgetting(trashed)
    if knows_another:
        earlier = requesting(earlier)
    with pytest.raises(DisagreementError, match="restored to an earlier state"):
        await back_up(server, earlier, kept)
    with pytest.raises(DisagreementError, match="restored to an earlier state"):
        await purge(server, earlier, kept, "any")
    assert await state_of(admin, kept) == (False, None)


async def test_nothing_is_opened_when_the_database_is_that_of_another_installation(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    row = await row_of(admin, kept)
    assert row is not None
    theirs = row["comment"].replace(trashed.installation, "11111111-52f4-4f3c-8a43-0e8d7f4f3f10", 1)
    assert theirs != row["comment"]
    await comment(admin, kept, theirs)
    with pytest.raises(NotOursError):
        await back_up(server, trashed, kept)
    with pytest.raises(NotOursError):
        await purge(server, trashed, kept, "any")
    assert await state_of(admin, kept) == (False, None)


async def test_nothing_is_dropped_when_the_database_is_opened_while_the_store_is_asked(
    server: Server, trashed: KnownOwner, kept: str, admin: asyncpg.Connection
) -> None:
    state = await back_up(server, trashed, kept)

    async def require_stored() -> None:
        await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')

    with pytest.raises(DisagreementError, match="was opened, and may be in use"):
        await purge(server, trashed, kept, state, require_stored)
    assert await exists(admin, kept)
