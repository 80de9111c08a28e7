"""PgBouncer before both servers: in session mode everything works, in transaction mode nothing starts."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client

from ods.embedded import seeding
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import SUPERUSER, EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.storage import dsn_check
from ods.registry.storage.dsn_check import DsnCheck
from ods.registry.storage.poolers import keeps_sessions
from ods.settings.settings import InvalidSettingsError, Settings
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import open_tenants
from tests import preloaded
from tests.api import server as api_server
from tests.end_to_end.conftest import Operator
from tests.pgbouncer import PgBouncer
from tests.servers import SERVICE_PASSWORD, make_settings, service_dsn, session
from worker import WORKERS, run

pytestmark = pytest.mark.pgbouncer

Pooler = Callable[..., AbstractAsyncContextManager[PgBouncer]]


@pytest.fixture
def pooler(postgres: EmbeddedPostgres) -> Pooler:
    """Makes a pooler before the test's server."""

    def pooler(**settings: object) -> AbstractAsyncContextManager[PgBouncer]:
        users = {SUPERUSER: "superuser-password-for-tests", seeding.SERVICE_ROLE: SERVICE_PASSWORD}
        return PgBouncer(postgres, users, **settings)

    return pooler


def _through(bouncer: PgBouncer, postgres: EmbeddedPostgres, registry_dsn: str, **changes: Any) -> Settings:
    values = {
        "admin_dsn": bouncer.dsn(registry_dsn),
        "master_dsn": bouncer.dsn(service_dsn(postgres, "postgres")),
        **changes,
    }
    return make_settings(postgres, registry_dsn, **values)


async def test_instance_is_created_renamed_and_deleted_when_a_pooler_keeps_sessions(
    pooler: Pooler, postgres: EmbeddedPostgres, registry_dsn: str, temporal: Client, name: str
) -> None:
    async with pooler(pool_mode="session") as bouncer, AsyncExitStack() as stack:
        settings = _through(bouncer, postgres, registry_dsn, spares=1)
        await DsnCheck(settings).check()
        (tenant,) = await stack.enter_async_context(open_tenants(settings))
        for worker in WORKERS:
            await stack.enter_async_context(worker(temporal, tenant))
        starter = JobStarter(temporal, settings.registry_queue)
        operator = Operator(tenant.instances, tenant.jobs, tenant.queries, starter, temporal)
        job = await operator.create(name)
        assert await operator.ended(job) is JobStatus.COMPLETED
        renaming = await operator.rename(job, f"{name} renamed")
        assert await operator.ended(renaming) is JobStatus.COMPLETED
        async with tenant.server.session() as kept:
            assert await kept.fetchval("SHOW client_connection_check_interval") == "500ms"
        assert await operator.ended(await operator.delete(renaming)) is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "settings",
    [{}, {"server_round_robin": 1}, {"default_pool_size": 1}, {"max_prepared_statements": 0}],
    ids=["plain", "round robin", "one session", "no prepared statements"],
)
async def test_pooler_is_recognised_when_it_is_in_transaction_mode(
    pooler: Pooler, postgres: EmbeddedPostgres, settings: dict[str, int]
) -> None:
    async with pooler(pool_mode="transaction", **settings) as bouncer:
        assert not await keeps_sessions(bouncer.dsn(service_dsn(postgres, "postgres")))


async def test_pooler_is_recognised_when_others_use_it_meanwhile(
    pooler: Pooler, postgres: EmbeddedPostgres
) -> None:
    async with pooler(pool_mode="transaction", default_pool_size=4) as bouncer:
        dsn = bouncer.dsn(service_dsn(postgres, "postgres"))
        async with _busy(dsn, 8):
            assert [await keeps_sessions(dsn) for _ in range(20)] == [False] * 20


async def test_sessions_are_kept_when_a_pooler_in_session_mode_is_used_by_others_meanwhile(
    pooler: Pooler, postgres: EmbeddedPostgres
) -> None:
    async with pooler(pool_mode="session", default_pool_size=20) as bouncer:
        dsn = bouncer.dsn(service_dsn(postgres, "postgres"))
        async with _busy(dsn, 8):
            assert [await keeps_sessions(dsn) for _ in range(20)] == [True] * 20


async def test_sessions_are_kept_when_there_is_no_pooler(postgres: EmbeddedPostgres) -> None:
    assert await keeps_sessions(service_dsn(postgres, "postgres"))


@asynccontextmanager
async def _busy(dsn: str, clients: int) -> AsyncIterator[None]:
    """Other clients, each with one short transaction after the other."""

    async def work() -> None:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            while True:
                async with connection.transaction():
                    await connection.fetchval("SELECT pg_sleep(0.002)")
        finally:
            connection.terminate()

    tasks = [asyncio.create_task(work()) for _ in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("field", ["admin_dsn", "master_dsn"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_worker_does_not_start_when_a_pooler_keeps_no_sessions(
    pooler: Pooler, postgres: EmbeddedPostgres, registry_dsn: str, mode: str, field: str
) -> None:
    direct = make_settings(postgres, registry_dsn)
    async with pooler(pool_mode=mode) as bouncer:
        refused = {field: bouncer.dsn(getattr(direct, field).get_secret_value())}
        settings = make_settings(postgres, registry_dsn, **refused)
        with pytest.raises(InvalidSettingsError) as caught:
            await run(settings, asyncio.Event())
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"ODS_{field.upper()}: leads to a pooler in transaction or statement mode")
    assert SERVICE_PASSWORD not in line


async def test_api_does_not_start_when_a_pooler_is_in_transaction_mode(
    pooler: Pooler, postgres: EmbeddedPostgres, registry_dsn: str
) -> None:
    async with pooler(pool_mode="transaction") as bouncer:
        settings = _through(bouncer, postgres, registry_dsn)
        command, env = api_server.command(free_port()), api_server.environment(settings)
        run = await asyncio.to_thread(preloaded.run, *command, env=env, seconds=30)
    assert run.returncode != 0
    output = run.stderr
    for variable in ("ODS_ADMIN_DSN", "ODS_MASTER_DSN"):
        assert f"{variable}: leads to a pooler in transaction or statement mode" in output
    assert SERVICE_PASSWORD not in output


async def test_worker_ends_later_when_the_pooler_was_away_at_its_start(
    pooler: Pooler,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    own_temporal: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def waits() -> bool:
        return "The tenant default is not ready" in caplog.text

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(dsn_check, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setenv("TEMPORAL_ADDRESS", own_temporal.service_client.config.target_host)
    async with pooler(pool_mode="transaction") as bouncer:
        settings = _through(bouncer, postgres, registry_dsn)
        await bouncer.stop()
        working = asyncio.create_task(run(settings, asyncio.Event()))
        await wait_until(waits, 20)
        assert "not known yet: ODS_ADMIN_DSN, ODS_MASTER_DSN" in caplog.text
        await bouncer.start()
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(working, 30)
    assert caught.group_contains(InvalidSettingsError, match="ODS_MASTER_DSN: leads to a pooler")


async def test_primary_is_found_again_when_the_pooler_tells_how_it_was_before(
    pooler: Pooler, postgres: EmbeddedPostgres, admin: asyncpg.Connection
) -> None:
    # PgBouncer repeats to every client what the server has told it about itself at its own first connection.
    async def set_read_only(value: str) -> None:
        await admin.execute(f"ALTER ROLE {seeding.SERVICE_ROLE} SET default_transaction_read_only = {value}")

    await set_read_only("on")
    try:
        async with pooler(pool_mode="session") as bouncer:
            dsn = bouncer.dsn(service_dsn(postgres, "postgres"))
            async with session(dsn) as before:
                assert before.get_settings().default_transaction_read_only == "on"
            await set_read_only("off")
            await admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1",
                seeding.SERVICE_ROLE,
            )

            async def connects() -> bool:
                try:
                    return await keeps_sessions(dsn)
                except (OSError, asyncpg.PostgresError):
                    return False

            await wait_until(connects, 10)
    finally:
        await admin.execute(f"ALTER ROLE {seeding.SERVICE_ROLE} RESET default_transaction_read_only")
