"""Worker processes that can be killed, on a Temporal server whose schedule is the test's own."""

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.temporal_server import TemporalServer
from ods.programs import process
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from tests import preloaded, registries
from tests.end_to_end.conftest import Operator
from tests.servers import MINIMAL_TEMPLATE, environment, make_settings, seeded_postgres, service_dsn, session

BIG_TEMPLATE = "Big_Template"


@pytest.fixture(scope="session")
async def second_postgres() -> AsyncIterator[EmbeddedPostgres]:
    async with seeded_postgres() as server:
        await registries.prepare(server)
        yield server


@pytest.fixture
async def other_postgres(second_postgres: EmbeddedPostgres) -> AsyncIterator[EmbeddedPostgres]:
    """A second server, which the test may take away and whose template it may open."""
    yield second_postgres
    if not await second_postgres.answers():
        await second_postgres.start()
    async with session(second_postgres.dsn()) as admin:
        await admin.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false')


@pytest.fixture
async def other_registry_dsn(other_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A registry of the test's own on the second server."""
    async with registries.cloned(other_postgres) as dsn:
        yield dsn


class OwnTemporal:
    """A Temporal server that keeps its state when it is taken away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = TemporalServer(folder, *free_ports(2))
        self._log = folder.with_suffix(".log")
        self._process: Process
        self.address = self._server.address

    async def start(self) -> None:
        self._process = await process.start(self._server.command(), self._log)
        await wait_until(self._server.serves, 30)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def lose(self) -> None:
        """Take it away, and bring it back without anything that it stored."""
        await self.kill()
        shutil.rmtree(self._folder)
        await self.start()


class WorkerProcess:
    """`python worker.py`, as in production."""

    def __init__(self, temporal: Client) -> None:
        self._address = temporal.service_client.config.target_host
        self._processes: list[preloaded.Process] = []

    async def start(self, settings: Settings, module: str = "worker") -> preloaded.Process:
        """Start one more worker."""
        worker = await preloaded.start(
            module,
            env={
                "PATH": os.environ["PATH"],
                **environment(settings),
                "TEMPORAL_ADDRESS": self._address,
            },
        )
        self._processes.append(worker)
        return worker

    async def stop(self) -> None:
        """Kill what is still running."""
        for worker in self._processes:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            await worker.wait()


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """A paused worker swallows the attempt that its open poll is given, so two would not do."""
    return make_settings(postgres, registry_dsn, ddl_attempts=4)


@pytest.fixture
async def outage(tmp_path: Path) -> AsyncIterator[OwnTemporal]:
    temporal = OwnTemporal(tmp_path / "temporal")
    await temporal.start()
    yield temporal
    await temporal.kill()


@pytest.fixture
async def worker_process(own_temporal: Client) -> AsyncIterator[WorkerProcess]:
    workers = WorkerProcess(own_temporal)
    yield workers
    await workers.stop()


@pytest.fixture
def operator(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    settings: Settings,
    own_temporal: Client,
) -> Operator:
    starter = JobStarter(own_temporal, settings.registry_queue)
    return Operator(instances, job_store, queries, starter, own_temporal)


@pytest.fixture(scope="session")
async def big_template(postgres: EmbeddedPostgres) -> str:
    """A template whose clone takes long enough to be interrupted."""
    async with session(service_dsn(postgres, "postgres")) as connection:
        await connection.execute(f'CREATE DATABASE "{BIG_TEMPLATE}" IS_TEMPLATE true')
        async with session(service_dsn(postgres, BIG_TEMPLATE)) as template:
            await template.execute(
                "CREATE TABLE bulk AS"
                " SELECT id, repeat(md5(id::text), 30) AS filler FROM generate_series(1, 250000) AS id"
            )
        await connection.execute(f'ALTER DATABASE "{BIG_TEMPLATE}" ALLOW_CONNECTIONS false')
    return BIG_TEMPLATE


@pytest.fixture
def big_settings(
    postgres: EmbeddedPostgres, registry_dsn: str, settings: Settings, big_template: str
) -> Settings:
    """The test's settings, with the big template behind `Sample`; copied through the WAL, which is slow."""
    return make_settings(
        postgres,
        registry_dsn,
        task_queue=settings.task_queue,
        sample_template=big_template,
        clone_strategy="wal_log",
        ddl_attempts=settings.ddl_attempts,
    )


async def clone_is_running(admin: asyncpg.Connection) -> None:
    """Wait until PostgreSQL is busy with a CREATE DATABASE of ours."""
    async with asyncio.timeout(20):
        while not await admin.fetch(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE query LIKE 'CREATE DATABASE ods_staging%' AND state = 'active'"
        ):
            await asyncio.sleep(0.002)


@asynccontextmanager
async def clone_held_until_interrupted(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the CREATE DATABASE that runs until it is asked to give up: it would be done sooner."""
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND state = 'active'"
    backend = psutil.Process(await admin.fetchval(query))
    try:
        backend.suspend()
        while not await _others_can_commit(admin, backend):
            backend.suspend()
        yield
        async with asyncio.timeout(30):
            while not _pending_signals(backend) & (1 << (signal.SIGINT - 1)):
                await asyncio.sleep(0.01)
    finally:
        backend.resume()


async def _others_can_commit(admin: asyncpg.Connection, suspended: psutil.Process) -> bool:
    """Whether other sessions can commit; if not, as it holds a lock of the WAL, the process goes on."""
    commit = asyncio.create_task(admin.execute("SELECT pg_logical_emit_message(true, 'test', '')"))
    done, _ = await asyncio.wait({commit}, timeout=1)
    if not done:
        suspended.resume()
    await commit
    return bool(done)


def _pending_signals(process: psutil.Process) -> int:
    """A bit for each signal that waits until the process goes on."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (pending,) = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd"))
    return int(pending, 16)


async def passes_are_over(client: Client) -> None:
    """Wait until the sweep and the reconcile pass that a worker runs at its start are done."""
    async with asyncio.timeout(20):
        while True:
            passes = [
                one async for one in client.list_workflows("WorkflowType IN ('PendingSweep', 'Reconcile')")
            ]
            done = [one for one in passes if one.status is not WorkflowExecutionStatus.RUNNING]
            if {one.workflow_type for one in done} == {"PendingSweep", "Reconcile"} and done == passes:
                return
            await asyncio.sleep(0.05)


async def loads(admin: asyncpg.Connection) -> list[int]:
    """The sessions of a pg_restore, once it loads rows."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_restore %' AND query LIKE 'COPY%'"
    )
    async with asyncio.timeout(30):
        while not (found := await admin.fetch(query)):
            await asyncio.sleep(0.002)
    return [row["pid"] for row in found]
