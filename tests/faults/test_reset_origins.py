"""Workers and sessions that end in the middle of a reset to a copy or a backup: it is done all the same."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus, Template
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests import preloaded
from tests.client_programs import suspended
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, clone_is_running
from tests.servers import make_settings, service_dsn, session

ORIGINS = ("online", "closed", "backup")
ROWS = 250_000
_MARKED = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 ORDER BY 1"
_STAGING = r"SELECT count(*) FROM pg_database WHERE datname LIKE 'ods\_staging\_%' || replace($1, '-', '')"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, tmp_path: Path, big_template: str) -> Settings:
    """With a store of backups, and the big template behind `Sample`; files are copied through the WAL."""
    store = tmp_path / "backups"
    store.mkdir()
    return make_settings(
        postgres,
        registry_dsn,
        ddl_attempts=4,
        backup_url=store.as_uri(),
        backup_verify="never",
        sample_template=big_template,
        clone_strategy="wal_log",
    )


@pytest.fixture
async def first(worker_process: WorkerProcess, settings: Settings) -> preloaded.Process:
    return await worker_process.start(settings)


@pytest.fixture
async def target(
    first: preloaded.Process, operator: Operator, postgres: EmbeddedPostgres, name: str
) -> InstanceJob:
    """The instance that is reset, with a row of its own."""
    job = await operator.create(f"{name} target")
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT 'old' AS words")
    return job


@pytest.fixture
async def source(first: preloaded.Process, operator: Operator, name: str) -> InstanceJob:
    """The instance with the data that the other one gets, which take long enough to be interrupted."""
    job = await operator.create(f"{name} source", Template.SAMPLE)
    assert await operator.ended(job) is JobStatus.COMPLETED
    return job


async def _reset(operator: Operator, target: InstanceJob, source: InstanceJob, kind: str) -> InstanceJob:
    origin: Origin
    if kind == "backup":
        backup = (await operator.instances.request_backup(source.instance_id, "requested")).job
        await operator.starter.start(backup)
        assert await operator.ended(backup) is JobStatus.COMPLETED
        origin = BackupOrigin(str(backup.makes_backup))
    else:
        origin = CopyOrigin(source.instance_id, CopyMode(kind))
    requested = (await operator.instances.request_reset(target.instance_id, "Sample", None, origin)).job
    await operator.starter.start(requested)
    return requested


async def _is_running(worker: preloaded.Process, admin: asyncpg.Connection, kind: str) -> None:
    """Wait until the database is being made; hold the program that does so, if there is one."""
    if kind == "closed":
        await clone_is_running(admin)
        return
    await suspended("pg_restore", worker.pid)


async def _treasure(postgres: EmbeddedPostgres, database: str) -> str | None:
    async with session(service_dsn(postgres, database)) as inside:
        words: str | None = await inside.fetchval("SELECT words FROM treasure")
        return words


async def _is_replaced(
    postgres: EmbeddedPostgres, admin: asyncpg.Connection, target: InstanceJob, job: InstanceJob
) -> None:
    """The target has all rows of the source, and what it had is in the trash; nothing else is left."""
    assert job.replacement is not None
    found = [row["datname"] for row in await admin.fetch(_MARKED, f"%{target.mark}%")]
    assert found == [target.database, job.trash_database]
    assert not await admin.fetchval(_STAGING, target.mark)
    async with session(service_dsn(postgres, target.database)) as inside:
        assert await inside.fetchval("SELECT count(*) FROM bulk") == ROWS
        assert await inside.fetchval("SELECT to_regclass('treasure')") is None


async def _is_back(operator: Operator, postgres: EmbeddedPostgres, target: InstanceJob) -> None:
    undo = (await operator.instances.request_undo_reset(target.instance_id)).job
    await operator.starter.start(undo)
    assert await operator.ended(undo) is JobStatus.COMPLETED
    assert await _treasure(postgres, target.database) == "old"


@pytest.mark.parametrize("kind", ORIGINS)
async def test_old_data_are_served_until_another_worker_has_made_the_database_when_one_is_killed(
    first: preloaded.Process,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    job = await _reset(operator, target, source, kind)
    await _is_running(first, admin, kind)
    programs = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    await first.wait()
    assert await _treasure(postgres, target.database) == "old"
    _, alive = psutil.wait_procs(programs, 5)
    assert alive == []
    await worker_process.start(settings)
    assert await operator.ended(job) is JobStatus.COMPLETED
    await _is_replaced(postgres, admin, target, job)
    async with session(service_dsn(postgres, source.database)) as inside:
        assert await inside.fetchval("SELECT count(*) FROM bulk") == ROWS
    await _is_back(operator, postgres, target)


@pytest.mark.parametrize("kind", ORIGINS)
async def test_database_is_made_anew_when_the_sessions_of_the_service_are_ended_in_the_middle_of_it(
    first: preloaded.Process,
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    job = await _reset(operator, target, source, kind)
    await _is_running(first, admin, kind)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE (pid <> pg_backend_pid() AND datname LIKE '%_staging_%')"
        " OR query LIKE 'CREATE DATABASE ods_staging%' OR application_name LIKE 'pg_dump %'"
    )
    for child in psutil.Process(first.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGCONT)
    assert await operator.ended(job) is JobStatus.COMPLETED
    await _is_replaced(postgres, admin, target, job)
    await _is_back(operator, postgres, target)


@pytest.mark.parametrize("kind", ORIGINS)
async def test_late_worker_changes_nothing_when_it_was_paused_in_the_middle_of_a_reset(
    first: preloaded.Process,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    job = await _reset(operator, target, source, kind)
    await _is_running(first, admin, kind)
    stopped = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    await worker_process.start(settings)
    assert await operator.ended(job) is JobStatus.COMPLETED
    oid = "SELECT oid FROM pg_database WHERE datname = $1"
    published = await admin.fetchval(oid, target.database)
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 20) == 0
    assert await admin.fetchval(oid, target.database) == published
    await _is_replaced(postgres, admin, target, job)
    await _is_back(operator, postgres, target)


async def test_source_is_held_while_the_worker_is_away_and_free_when_the_reset_is_done(
    first: preloaded.Process,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    registry_dsn: str,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    """Also from a delete that another product writes into its row."""
    job = await _reset(operator, target, source, "online")
    await _is_running(first, admin, "online")
    first.kill()
    await first.wait()
    async with session(registry_dsn) as rows:
        await rows.execute(
            "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", source.instance_id
        )
    await worker_process.start(settings)

    async def is_refused() -> bool:
        row = await operator.instance(source)
        return row.status == "Completed" and row.job_number > source.number

    await wait_until(is_refused, 60)
    assert await operator.ended(job) is JobStatus.COMPLETED
    assert await operator.ended(await operator.delete(source)) is JobStatus.COMPLETED
