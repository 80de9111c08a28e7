"""The fence around one instance: one session at a time, and no way back for a session that has lost it."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import asyncpg
import pytest

from ods.databases import server as databases_server
from ods.databases.errors import DatabaseFaultError, translate_postgres_errors
from ods.databases.ownership import Owner
from ods.databases.provisioning import CloneRequest, TemplateSizes, provision
from ods.databases.server import Server
from ods.embedded import seeding
from ods.embedded.postgres import EmbeddedPostgres
from tests.postgres.postgres_inspection import FENCE_AWAITED, exists, until
from tests.servers import MINIMAL_TEMPLATE, NUMBERS, POSTGRES_VERSION, SERVICE_PASSWORD, service_dsn, session

HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases_server, "_FENCE_TIMEOUT", "200ms")


async def backend_of(fenced: asyncpg.Connection) -> int:
    pid: int = await fenced.fetchval("SELECT pg_backend_pid()")
    return pid


async def is_held(server: Server, owner: Owner) -> int:
    async with server.fenced(owner) as fenced:
        return await backend_of(fenced)


async def test_second_attempt_waits_when_the_first_holds_the_fence(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async with server.fenced(owner) as fenced:
        second = asyncio.create_task(is_held(server, owner))
        await until(lambda: admin.fetchval(FENCE_AWAITED))
        assert not second.done()
        assert await backend_of(fenced)
    async with asyncio.timeout(1):
        await second
    await until(lambda: _none(admin, HELD))


async def _none(admin: asyncpg.Connection, query: str) -> bool:
    return not await admin.fetchval(query)


async def test_session_is_used_again_without_its_fence_when_all_went_well(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    first = await is_held(server, owner)
    async with server.session() as again:
        assert await backend_of(again) == first
        assert await admin.fetchval(HELD) == 0


async def test_session_is_closed_when_anything_went_wrong_on_it(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    first = await is_held(server, owner)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with server.fenced(owner) as fenced:
            await fenced.execute("SELECT 1 / 0")
    assert await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", first) == 0
    assert await is_held(server, owner) != first


async def test_next_session_is_a_new_one_when_the_server_ended_the_one_that_was_kept(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    first = await is_held(server, owner)
    assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
    await until(lambda: _is_replaced(server, first))


async def test_fault_is_told_when_the_server_ends_a_session_that_is_used(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async def interrupted() -> None:
        async with server.fenced(owner) as fenced:
            await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", await backend_of(fenced))
            with translate_postgres_errors({}):
                await fenced.fetchval("SELECT 1")

    with pytest.raises(DatabaseFaultError) as caught:
        await interrupted()
    assert caught.value.retryable
    assert await is_held(server, owner)


async def test_fault_is_told_soon_and_passes_when_a_session_that_was_kept_is_dead(
    server: Server, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await is_held(server, owner)
    monkeypatch.setattr(databases_server, "_CONNECT_TIMEOUT", 0.2)
    os.kill(first, signal.SIGSTOP)  # as if its machine had lost its power
    try:
        async with asyncio.timeout(2):
            with pytest.raises(DatabaseFaultError) as caught:
                await is_held(server, owner)
            monkeypatch.undo()
            assert await is_held(server, owner) != first
    finally:
        os.kill(first, signal.SIGCONT)
    assert caught.value.retryable


async def _is_replaced(server: Server, backend: int) -> bool:
    with suppress(DatabaseFaultError):  # which is tried again
        async with server.session() as session:
            with translate_postgres_errors({}):
                return await backend_of(session) != backend
    return False


async def test_fence_is_not_waited_for_when_the_caller_finds_that_it_must_not(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async def refuse() -> None:
        raise PermissionError

    async with server.fenced(owner) as fenced:
        with pytest.raises(PermissionError):
            async with server.fenced(owner, before_waiting=refuse):
                pass
        assert await admin.fetchval(FENCE_AWAITED) == 0
        assert await backend_of(fenced)


async def test_fence_is_free_when_its_holder_was_killed(server: Server, owner: Owner) -> None:
    async with server.fenced(owner) as fenced:
        fenced.terminate()
        async with asyncio.timeout(1.5):
            await is_held(server, owner)


async def test_holder_is_ended_and_can_do_nothing_more_when_it_does_not_let_go(
    server: Server, owner: Owner, short_timeout: None
) -> None:
    async with server.fenced(owner) as fenced:
        before = time.monotonic()
        async with asyncio.timeout(5):
            await is_held(server, owner)
        assert time.monotonic() - before > 0.2
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.InterfaceError, OSError)):
            await fenced.execute("SELECT 1")


async def test_holder_is_ended_in_the_middle_of_its_statement_when_it_does_not_let_go(
    server: Server,
    wanted: CloneRequest,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    short_timeout: None,
) -> None:
    await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true')
    try:
        async with session(postgres.dsn(MINIMAL_TEMPLATE)), server.fenced(wanted.owner) as fenced:
            stuck = asyncio.create_task(provision(fenced, wanted, TemplateSizes()))
            await until(lambda: admin.fetchval(_creating()))
            async with asyncio.timeout(2):
                await is_held(server, wanted.owner)
            with pytest.raises(DatabaseFaultError) as caught:
                await stuck
    finally:
        await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false')
    assert caught.value.retryable
    assert not await exists(admin, wanted.owner.staging_name)


def _creating() -> str:
    return "SELECT pid FROM pg_stat_activity WHERE query ILIKE 'CREATE DATABASE%' AND state = 'active'"


async def test_instances_do_not_wait_for_each_other_when_both_are_fenced(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    other = replace(owner, mark="6b1f0f6e-1111-4222-8333-444444444444")
    async with asyncio.timeout(1), server.fenced(owner) as first, server.fenced(other) as second:
        assert await backend_of(first) != await backend_of(second)
        assert await admin.fetchval(HELD) == 2


async def test_holders_of_other_fences_live_on_when_one_is_ended(
    server: Server, owner: Owner, short_timeout: None
) -> None:
    other = replace(owner, mark="6b1f0f6e-1111-4222-8333-444444444444")
    async with server.fenced(other) as bystander, server.fenced(owner):
        await is_held(server, owner)
        assert await bystander.fetchval("SELECT 1") == 1


async def test_jobs_of_an_instance_share_its_fence_when_they_follow_each_other(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async with server.fenced(owner):
        second = asyncio.create_task(is_held(server, replace(owner, job_id="DeleteInstanceJob-1-2")))
        await until(lambda: admin.fetchval(FENCE_AWAITED))
    await second


async def test_statements_wait_briefly_for_locks_when_the_fence_was_taken(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async with server.fenced(owner) as fenced:
        assert await fenced.fetchval("SHOW lock_timeout") == "3s"
    await admin.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", owner.mark)
    waiting = asyncio.create_task(_lock_timeout_behind_a_fence(server, owner))
    await until(lambda: admin.fetchval(FENCE_AWAITED))
    await admin.execute("SELECT pg_advisory_unlock_all()")
    assert await waiting == "3s"


async def _lock_timeout_behind_a_fence(server: Server, owner: Owner) -> str:
    async with server.fenced(owner) as fenced:
        return str(await fenced.fetchval("SHOW lock_timeout"))


async def test_attempt_may_be_repeated_when_the_holder_cannot_be_ended(
    server: Server, owner: Owner, admin: asyncpg.Connection, short_timeout: None
) -> None:
    await admin.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", owner.mark)
    with pytest.raises(DatabaseFaultError) as caught:
        await is_held(server, owner)
    assert caught.value.reason
    await admin.execute("SELECT pg_advisory_unlock_all()")
    await is_held(server, owner)


async def test_nothing_stays_behind_when_a_waiting_attempt_is_cancelled(
    server: Server, owner: Owner, admin: asyncpg.Connection
) -> None:
    async with server.fenced(owner):
        second = asyncio.create_task(is_held(server, owner))
        await until(lambda: admin.fetchval(FENCE_AWAITED))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await admin.fetchval(FENCE_AWAITED) == 0


async def test_next_attempt_succeeds_soon_when_a_client_was_killed_while_it_cloned(
    server: Server, wanted: CloneRequest, admin: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true')
    try:
        async with session(postgres.dsn(MINIMAL_TEMPLATE)), server.fenced(wanted.owner) as fenced:
            killed = asyncio.create_task(provision(fenced, wanted, TemplateSizes()))
            await until(lambda: admin.fetchval(_creating()))
            fenced.terminate()
            await until(
                lambda: _none(admin, _creating()), 2
            )  # by itself, the ghost would go on for five seconds
            with pytest.raises(DatabaseFaultError):
                await killed
    finally:
        await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false')
    assert not await exists(admin, wanted.owner.staging_name)
    async with asyncio.timeout(3), server.fenced(wanted.owner) as fenced:
        await provision(fenced, wanted, TemplateSizes())
    assert await exists(admin, wanted.database)


async def _make_read_only(session: asyncpg.Connection) -> int:
    """As if the server had become a standby, whatever else happens to sessions then."""
    pid = await backend_of(session)
    await session.execute("SET default_transaction_read_only = on")
    return pid


async def _write_refused(server: Server, owner: Owner) -> None:
    async with server.fenced(owner) as session:
        await _make_read_only(session)
        with translate_postgres_errors({}):
            await session.execute('COMMENT ON DATABASE "postgres" IS NULL')


async def test_sessions_are_replaced_when_a_write_is_refused_as_read_only(
    server: Server, owner: Owner
) -> None:
    other = replace(owner, mark="6b1f0f6e-1111-4222-8333-444444444444")
    async with server.fenced(owner) as first, server.fenced(other) as second:
        old = {await backend_of(first), await backend_of(second)}
    with pytest.raises(DatabaseFaultError) as caught:
        await _write_refused(server, owner)
    assert caught.value.retryable
    async with server.fenced(owner) as first, server.fenced(other) as second:
        assert not old & {await backend_of(first), await backend_of(second)}


async def test_kept_session_is_given_up_at_once_when_it_cannot_write(
    server: Server, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep(_: asyncpg.Connection) -> None:
        """Take nothing away."""

    monkeypatch.setattr(databases_server, "_reset", keep)
    for take in (server.session, partial(server.fenced, owner)):
        async with server.session() as session:
            first = await _make_read_only(session)
        with pytest.raises(DatabaseFaultError) as caught:
            async with take():
                pass
        assert caught.value.sqlstate == "25006"
        async with take() as session:
            assert await backend_of(session) != first


async def test_settings_are_those_of_every_session_when_one_is_used_again(server: Server) -> None:
    settings = ("application_name", "client_connection_check_interval", "tcp_keepalives_idle")
    for _ in range(2):
        async with server.session() as session:
            values = [await session.fetchval(f"SHOW {name}") for name in settings]
            assert values == ["ods instance management", "500ms", "30"]
            await session.execute("SET client_connection_check_interval = 0; SET lock_timeout = 5")
    async with server.session() as session:
        assert await session.fetchval("SHOW lock_timeout") == "3s"


async def test_limits_that_an_operator_has_set_for_other_programs_do_not_count_for_the_service(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    limits = ["statement_timeout", "idle_session_timeout"]
    if int(POSTGRES_VERSION) >= 17:
        limits.append("transaction_timeout")
    role = f"limited_{next(NUMBERS)}"
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SERVICE_PASSWORD}'")
    for limit in limits:
        await admin.execute(f"ALTER ROLE {role} SET {limit} = '30s'")
    limited = Server(service_dsn(postgres, "postgres").replace(seeding.SERVICE_ROLE, role))

    async def found(inside: asyncpg.Connection) -> list[str]:
        return [await inside.fetchval(f"SHOW {limit}") for limit in limits]

    try:
        async with session(limited.dsn) as other_program:
            assert await found(other_program) == ["30s"] * len(limits)
        for _ in range(2):  # new, and used again
            async with limited.session() as pooled:
                assert await found(pooled) == ["0"] * len(limits)
        async with limited.connected("postgres") as inside:
            assert await found(inside) == ["0"] * len(limits)
    finally:
        await limited.close()
        await admin.execute(f"DROP ROLE {role}")
