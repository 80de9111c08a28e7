"""The server of the registry and of the ODS databases goes away in the middle of a final backup."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.settings.settings import Settings
from tests.client_programs import suspended
from tests.dumps import filling
from tests.end_to_end.conftest import Operator
from tests.faults.conftest import WorkerProcess
from tests.faults.test_final_backups import is_restored, names, purge_of
from tests.servers import make_settings, service_dsn, session

_BACKUPS = "SELECT storedid, provenid, verification FROM adminapi.backups WHERE kind = 'final'"


@pytest.fixture
def settings(other_postgres: EmbeddedPostgres, other_registry_dsn: str, store: Path) -> Settings:
    """Registry and ODS databases are on the server that goes away."""
    return make_settings(
        *(other_postgres, other_registry_dsn),
        ddl_attempts=4,
        backup_url=store.as_uri(),
        backup_verify="never",
    )


@pytest.mark.parametrize(
    ("program", "crashes"),
    [("pg_dump", False), ("pg_restore", True)],
    ids=["is restarted during the dump", "crashes during the verification"],
)
async def test_purge_goes_on_and_drops_what_has_a_verified_backup_when_the_server(
    operator: Operator,
    worker_process: WorkerProcess,
    settings: Settings,
    other_postgres: EmbeddedPostgres,
    other_registry_dsn: str,
    name: str,
    program: str,
    *,
    crashes: bool,
) -> None:
    worker = await worker_process.start(settings)
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(other_postgres, job.database)) as inside:
        await inside.execute(filling())
    trashed = await operator.delete(job)
    assert await operator.ended(trashed) is JobStatus.COMPLETED

    purge = await purge_of(operator, trashed)
    running = await suspended(program, worker.pid)
    if crashes:
        os.kill(other_postgres.pid, signal.SIGQUIT)
    await other_postgres.stop()
    with suppress(psutil.NoSuchProcess):
        running.send_signal(signal.SIGCONT)
    await other_postgres.start()
    async with session(other_postgres.dsn()) as admin:
        assert await names(admin, trashed) == [trashed.trash_database], "it has no verified backup yet"
    assert await operator.ended(purge) is JobStatus.COMPLETED

    async with session(other_postgres.dsn()) as admin:
        assert await names(admin, trashed) == []
    async with session(other_registry_dsn) as rows:
        (backup,) = await rows.fetch(_BACKUPS)
    assert (backup["provenid"], backup["verification"]) == (backup["storedid"], "Completed")
    assert await is_restored(operator, other_postgres, purge)
