"""Workers that die while a backup is made or restored: nothing goes on, and another worker does it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from temporalio.client import WorkflowHandle

from activities.backup_verification import Verification
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import InstanceStatus, JobStatus
from ods.model.origins import BackupOrigin
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests import preloaded
from tests.client_programs import has_ended, suspended, wait_until_ended
from tests.dumps import filling
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess, loads
from tests.servers import make_settings, service_dsn, session
from workflows.jobs import VerifyBackup
from workflows.passes import ScheduledBackups


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(
        postgres, registry_dsn, ddl_attempts=4, backup_url=store.as_uri(), backup_verify="never"
    )


@pytest.fixture
async def first(worker_process: WorkerProcess, settings: Settings) -> preloaded.Process:
    return await worker_process.start(settings)


@pytest.fixture
async def filled(
    first: preloaded.Process, operator: Operator, postgres: EmbeddedPostgres, name: str
) -> AsyncIterator[InstanceJob]:
    """An instance whose dump takes some seconds."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute(filling())
    yield job
    async with session(service_dsn(postgres, "postgres")) as maintenance:
        await maintenance.execute(f'DROP DATABASE IF EXISTS "{job.database}" WITH (FORCE)')


async def backup_of(operator: Operator, job: InstanceJob) -> InstanceJob:
    requested = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(requested)
    return requested


async def is_over(program: psutil.Process, admin: asyncpg.Connection, database: str) -> None:
    """Wait until the program has ended, and no session is left on the database."""

    async def nothing_goes_on() -> bool:
        sessions = await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database)
        return has_ended(program) and sessions == 0

    await wait_until(nothing_goes_on, 30)


async def waits_for_its_program(admin: asyncpg.Connection, database: str) -> bool:
    """Whether a session waits for pg_dump: then each DROP DATABASE waits, of whichever database."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'ClientWrite'"
    return bool(await admin.fetch(waiting, database))


async def verification_of(
    operator: Operator, backup: InstanceJob, settings: Settings, registry_dsn: str
) -> WorkflowHandle[VerifyBackup, str]:
    assert backup.makes_backup is not None
    async with session(registry_dsn) as rows:
        await rows.execute("UPDATE adminapi.backups SET verification = 'Pending'")
    verification = Verification(backup.tenant, backup.makes_backup, backup.policy)
    return await operator.client.start_workflow(
        VerifyBackup.run, verification, id=verification.workflow_id, task_queue=settings.registry_queue
    )


async def stagings(admin: asyncpg.Connection) -> list[str]:
    found = await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, 'ods_staging_')")
    return [row["datname"] for row in found]


def manifests(store: Path) -> list[Path]:
    return list(store.rglob("manifest.json"))


async def test_nothing_goes_on_and_another_worker_makes_the_backup_when_one_is_killed(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    store: Path,
    admin: asyncpg.Connection,
) -> None:
    backup = await backup_of(operator, filled)
    dump = await suspended("pg_dump", first.pid)
    first.kill()
    await first.wait()
    await is_over(dump, admin, filled.database)
    assert manifests(store) == []
    await worker_process.start(settings)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    assert len(manifests(store)) == 1
    assert (await operator.instance(filled)).status == InstanceStatus.COMPLETED


async def test_backup_is_given_up_when_the_instance_has_moved_on_and_its_worker_does_not_know(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    store: Path,
    admin: asyncpg.Connection,
    registry_dsn: str,
) -> None:
    backup = await backup_of(operator, filled)
    dump = await suspended("pg_dump", first.pid)
    async with session(registry_dsn) as rows:
        await rows.execute(
            "UPDATE adminapi.managed_instances SET request = gen_random_uuid() WHERE id = $1",
            filled.instance_id,
        )
    await is_over(dump, admin, filled.database)
    assert manifests(store) == []
    row = await operator.queries.job(backup.job_id)
    assert row is not None
    assert row.status == JobStatus.IN_PROGRESS


async def test_no_session_of_a_suspended_worker_is_left_when_another_one_makes_the_backup(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    store: Path,
    admin: asyncpg.Connection,
) -> None:
    backup = await backup_of(operator, filled)
    dump = await suspended("pg_dump", first.pid)
    first.send_signal(signal.SIGSTOP)
    dump.send_signal(signal.SIGCONT)

    await wait_until(lambda: waits_for_its_program(admin, filled.database), 30)
    await worker_process.start(settings)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    assert not await waits_for_its_program(admin, filled.database)
    first.send_signal(signal.SIGCONT)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 20) == 0
    assert len(manifests(store)) == 1


async def test_no_session_of_a_suspended_worker_is_left_when_the_backup_is_cancelled(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    store: Path,
    admin: asyncpg.Connection,
) -> None:
    backup = await backup_of(operator, filled)
    dump = await suspended("pg_dump", first.pid)
    first.send_signal(signal.SIGSTOP)
    dump.send_signal(signal.SIGCONT)
    await wait_until(lambda: waits_for_its_program(admin, filled.database), 30)
    await worker_process.start(settings)
    await operator.client.get_workflow_handle(backup.workflow_id).cancel()
    assert await operator.ended(backup) is JobStatus.ERROR

    async def no_session_is_left() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_dump ods_backup_%'"
        return not await admin.fetchval(query)

    await wait_until(no_session_is_left, 30)
    first.send_signal(signal.SIGCONT)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 20) == 0
    assert manifests(store) == []
    assert (await operator.instance(filled)).status == InstanceStatus.COMPLETED


async def test_backup_is_restored_when_the_session_of_pg_restore_alone_is_ended(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backup_of(operator, filled)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    assert backup.makes_backup is not None
    origin = BackupOrigin(backup.makes_backup)
    restored = (await operator.instances.reserve(f"{name} back", "Minimal", origin=origin)).job
    await operator.starter.start(restored)
    await admin.execute("SELECT pg_terminate_backend(unnest($1::int[]))", await loads(admin))
    assert await operator.ended(restored) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, restored.database)) as inside:
        assert await inside.fetchval("SELECT count(*) FROM filling") == 20000
    assert await stagings(admin) == []
    await admin.execute(f'DROP DATABASE "{restored.database}" WITH (FORCE)')


async def test_backup_is_whole_when_the_session_of_pg_restore_alone_is_ended_while_it_is_verified(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    admin: asyncpg.Connection,
    settings: Settings,
    registry_dsn: str,
) -> None:
    backup = await backup_of(operator, filled)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    handle = await verification_of(operator, backup, settings, registry_dsn)
    await admin.execute("SELECT pg_terminate_backend(unnest($1::int[]))", await loads(admin))
    assert await asyncio.wait_for(handle.result(), 90) == "The backup is whole."


async def test_no_session_of_a_suspended_worker_is_left_when_another_one_verifies_the_backup(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    admin: asyncpg.Connection,
    registry_dsn: str,
) -> None:
    backup = await backup_of(operator, filled)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    handle = await verification_of(operator, backup, settings, registry_dsn)
    loading = await loads(admin)
    first.send_signal(signal.SIGSTOP)
    await worker_process.start(settings)
    assert await asyncio.wait_for(handle.result(), 90) == "The backup is whole."
    assert not await admin.fetch("SELECT FROM pg_stat_activity WHERE pid = ANY($1)", loading)
    first.send_signal(signal.SIGCONT)
    first.terminate()
    assert await asyncio.wait_for(first.wait(), 20) == 0


async def test_another_worker_restores_the_backup_when_one_is_killed(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    backup = await backup_of(operator, filled)
    assert await operator.ended(backup) is JobStatus.COMPLETED
    assert backup.makes_backup is not None
    origin = BackupOrigin(backup.makes_backup)
    restored = (await operator.instances.reserve(f"{name} back", "Minimal", origin=origin)).job
    await operator.starter.start(restored)
    program = await suspended("pg_restore", first.pid)
    staging = await admin.fetchval(
        "SELECT datname FROM pg_database WHERE starts_with(datname, 'ods_staging_')"
    )
    first.kill()
    await first.wait()
    await is_over(program, admin, staging)
    await worker_process.start(settings)
    assert await operator.ended(restored) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, restored.database)) as inside:
        assert await inside.fetchval("SELECT count(*) FROM filling") == 20000
    assert await stagings(admin) == []
    await admin.execute(f'DROP DATABASE "{restored.database}" WITH (FORCE)')


async def test_pass_of_a_schedule_goes_on_and_requests_nothing_twice_when_its_worker_is_killed(
    first: preloaded.Process,
    filled: InstanceJob,
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    store: Path,
    registry_dsn: str,
    name: str,
) -> None:
    other = await operator.create(f"{name} other")
    assert await operator.ended(other) is JobStatus.COMPLETED
    passing = await operator.client.start_workflow(
        ScheduledBackups.run, id="scheduled-backups", task_queue=settings.registry_queue
    )
    dump = await suspended("pg_dump", first.pid)  # of one; the other waits for its place
    first.kill()
    await first.wait()
    await wait_until_ended(dump)
    await worker_process.start(settings)
    assert (await passing.result()).endswith("0 refused, 0 unchanged.")

    async def are_stored() -> bool:
        return len(manifests(store)) == 2

    await wait_until(are_stored, 60)
    async with session(registry_dsn) as rows:
        found = await rows.fetch("SELECT instanceid, count(DISTINCT dueat) FROM adminapi.backups GROUP BY 1")
        assert await rows.fetchval("SELECT count(*) FROM adminapi.backups") == 2
    assert {row[0] for row in found} == {filled.instance_id, other.instance_id}
