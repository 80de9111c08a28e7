"""Resets to copies of other instances and to backups, through the API, by workers, on real servers.

The databases are told apart by a row that each instance has, and its backup.
"""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import asyncpg
import httpx
import psutil
import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import provisioner
from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from ods.databases import provisioning, replacing
from ods.databases.errors import DatabaseFaultError
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.client_programs import at_work, suspended
from tests.dumps import filling
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import names, reconcile
from tests.postgres.postgres_inspection import privileges_on
from tests.servers import make_settings, service_dsn, session

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("workers")]

ORIGINS = ("online", "closed", "backup")
_STAGING = r"SELECT count(*) FROM pg_database WHERE datname LIKE 'ods\_staging\_%' || replace($1, '-', '')"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(postgres, registry_dsn, backup_url=store.as_uri(), backup_verify="never")


async def created(operator: Operator, postgres: EmbeddedPostgres, name: str, words: str) -> InstanceJob:
    """An instance with a row by which its data are told from those of another."""
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure (words text)")
        await inside.execute("INSERT INTO treasure VALUES ($1)", words)
    return job


async def write(postgres: EmbeddedPostgres, job: InstanceJob, words: str) -> None:
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("INSERT INTO treasure VALUES ($1)", words)


async def read(postgres: EmbeddedPostgres, job: InstanceJob) -> list[str]:
    """What the instance's database has, as it is now."""
    async with session(service_dsn(postgres, job.database)) as inside:
        return [row["words"] for row in await inside.fetch("SELECT words FROM treasure ORDER BY 1")]


@pytest.fixture
async def target(operator: Operator, postgres: EmbeddedPostgres, name: str) -> InstanceJob:
    """The instance that is reset."""
    return await created(operator, postgres, f"{name} target", "old")


@pytest.fixture
async def source(operator: Operator, postgres: EmbeddedPostgres, name: str) -> InstanceJob:
    """The instance that is copied."""
    return await created(operator, postgres, f"{name} source", "source")


async def backed_up(operator: Operator, job: InstanceJob) -> str:
    requested = (await operator.instances.request_backup(job.instance_id, "requested")).job
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    return str(requested.makes_backup)


async def origin_of(operator: Operator, source: InstanceJob, kind: str) -> Origin:
    """What an instance is reset to so that it gets the data of the source."""
    if kind == "backup":
        return BackupOrigin(await backed_up(operator, source))
    return CopyOrigin(source.instance_id, CopyMode(kind))


async def reset(operator: Operator, target: InstanceJob, origin: Origin) -> InstanceJob:
    requested = await operator.instances.request_reset(target.instance_id, "Minimal", "a client", origin)
    await operator.starter.start(requested.job)
    return requested.job


async def undo(operator: Operator, target: InstanceJob) -> InstanceJob:
    requested = await operator.instances.request_undo_reset(target.instance_id)
    await operator.starter.start(requested.job)
    return requested.job


async def reason(operator: Operator, job: InstanceJob) -> str:
    """Why the job has failed."""
    row = await operator.queries.job(job.job_id)
    return str(row and row.error_message)


async def undone(operator: Operator, admin: asyncpg.Connection, target: InstanceJob) -> None:
    """Wait until nothing is left of a reset that has failed: the instance has what it had."""
    async with asyncio.timeout(30):
        while (row := await operator.instance(target)).replacement is not None:
            await asyncio.sleep(0.03)
    assert row.status == InstanceStatus.COMPLETED
    assert (row.database.copy_of, row.database.backup_id, str(row.database_id)) == (
        None,
        None,
        target.database_id,
    )
    assert await names(admin, target.mark) == [target.database]
    assert not await admin.fetchval(_STAGING, target.mark)


@pytest.mark.parametrize("kind", ORIGINS)
async def test_data_are_those_of_the_origin_then_the_old_ones_when_a_reset_is_undone(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    origin = await origin_of(operator, source, kind)
    if kind == "backup":
        await write(postgres, source, "since the backup")
    before = await operator.instance(target)
    rights = await privileges_on(admin, target.database)
    job = await reset(operator, target, origin)
    assert await operator.ended(job) is JobStatus.COMPLETED, await reason(operator, job)
    assert await read(postgres, target) == ["source"]
    await write(postgres, target, "written since")
    assert await read(postgres, source) == (
        ["since the backup", "source"] if kind == "backup" else ["source"]
    )
    after = await operator.instance(target)
    for attribute in ("id", "name", "database_name", "ods_instance_id", "mark"):
        assert getattr(after, attribute) == getattr(before, attribute)
    assert job.replacement is not None
    assert (str(after.database_id), after.database.origin) == (
        job.replacement.database_id,
        job.replacement.origin,
    )
    assert await names(admin, target.mark) == [target.database, job.trash_database]
    assert await privileges_on(admin, target.database) == rights
    assert not await admin.fetchval(_STAGING, target.mark)

    assert await operator.ended(await undo(operator, target)) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["old"]
    assert (await operator.instance(target)).database.origin == before.database.origin
    assert await operator.ended(await undo(operator, target)) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["source", "written since"]
    assert (await operator.instance(target)).database.origin == job.replacement.origin


async def test_instance_has_its_own_state_of_before_when_it_is_reset_to_its_backup(
    operator: Operator, postgres: EmbeddedPostgres, target: InstanceJob
) -> None:
    backup = await backed_up(operator, target)
    await write(postgres, target, "spoilt")
    assert await operator.ended(await reset(operator, target, BackupOrigin(backup))) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["old"]
    assert await operator.ended(await undo(operator, target)) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["old", "spoilt"]


async def test_clients_replace_an_instance_by_the_backup_of_one_that_is_gone_when_they_ask_the_api(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    backup = await backed_up(operator, source)
    purge = await operator.instances.request_delete(source.instance_id, Delete(Way.DROP))
    await operator.starter.start(purge.job)
    assert await operator.ended(purge.job) is JobStatus.COMPLETED
    path = f"/v2/dbInstances/{target.instance_id}"
    plan = (await api.post(f"{path}/reset?dryRun=true", json={"backupId": backup})).json()
    assert (plan["status"], plan["instances"][0]["sizeBytes"] > 1_000_000) == (202, True)
    assert await read(postgres, target) == ["old"]

    answer = await api.post(f"{path}/reset", json={"backupId": backup})
    assert answer.status_code == 202, answer.text
    assert (await api.delete(f"/v2/backups/{backup}")).status_code == 409
    async with asyncio.timeout(60):
        while (job := (await api.get(f"/v2/jobs/{answer.json()['jobId']}")).json())["status"] != "Completed":
            assert job["status"] != "Error", job["errorMessage"]
            await asyncio.sleep(0.05)
    assert job["operation"] == "Reset"
    shown = (await api.get(path)).json()
    assert (shown["backupId"], shown["copyOf"], shown["operation"]) == (backup, None, "Reset")
    assert await read(postgres, target) == ["source"]
    assert (await api.delete(f"/v2/backups/{backup}")).status_code == 204
    assert (await api.post(f"{path}/reset", json={"backupId": backup})).status_code == 400


@pytest.mark.parametrize("mode", ["online", "closed"])
async def test_plan_tells_the_size_of_the_source_and_the_copy_has_it_when_clients_ask_the_api(
    operator: Operator,
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    mode: str,
) -> None:
    path, body = f"/v2/dbInstances/{target.instance_id}/reset", {"copyOf": source.instance_id, "mode": mode}
    plan = (await api.post(path, json=body, params={"dryRun": "true"})).json()
    assert plan["sizeBytes"] == await admin.fetchval("SELECT pg_database_size($1::name)", source.database)
    answer = await api.post(path, json=body)
    assert answer.status_code == 202, answer.text
    assert "neither deleted nor renamed nor reset" in answer.json()["notice"]
    async with asyncio.timeout(30):
        while (await api.get(f"/v2/jobs/{answer.json()['jobId']}")).json()["status"] != "Completed":
            await asyncio.sleep(0.05)
    shown = (await api.get(f"/v2/dbInstances/{target.instance_id}")).json()
    assert (shown["copyOf"], shown["mode"]) == (source.instance_id, mode)


STEPS: dict[str, Callable[[str], Any]] = {
    "make": lambda kind: patch.object(
        provisioner.Provisioner,
        "_restored" if kind == "backup" else "_copied",
        AsyncMock(side_effect=DatabaseFaultError("It has failed.")),
    ),
    "verify": lambda _: patch.object(
        provisioning, "verify", AsyncMock(side_effect=DatabaseFaultError("It has failed."))
    ),
    "exchange": lambda _: patch.object(
        replacing, "_exchange", AsyncMock(side_effect=DatabaseFaultError("It has failed."))
    ),
}


@pytest.mark.parametrize("kind", ORIGINS)
@pytest.mark.parametrize("step", STEPS)
async def test_old_data_are_served_and_nothing_is_left_when_a_step_of_the_reset_has_failed(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
    step: str,
) -> None:
    origin = await origin_of(operator, source, kind)
    with STEPS[step](kind):
        job = await reset(operator, target, origin)
        assert await operator.ended(job) is JobStatus.ERROR
        assert await read(postgres, target) == ["old"]
    await undone(operator, admin, target)
    assert await reason(operator, job) == "It has failed."
    assert await read(postgres, target) == ["old"]
    assert await read(postgres, source) == ["source"]
    # The source is free again, and the instance can be reset anew.
    assert await operator.ended(await reset(operator, target, origin)) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["source"]
    assert await operator.ended(await operator.delete(source)) is JobStatus.COMPLETED


def damage(store: Path) -> None:
    (dump,) = store.rglob("database.dump")
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)


def empty(store: Path) -> None:
    for folder in store.iterdir():
        shutil.rmtree(folder)


async def test_old_data_are_served_when_the_backup_is_damaged(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    store: Path,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    backup = await backed_up(operator, source)
    damage(store)
    job = await reset(operator, target, BackupOrigin(backup))
    assert await operator.ended(job) is JobStatus.ERROR
    await undone(operator, admin, target)
    assert await read(postgres, target) == ["old"]


async def test_old_data_are_served_when_the_store_has_lost_the_backup(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    store: Path,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    backup = await backed_up(operator, source)
    empty(store)
    job = await reset(operator, target, BackupOrigin(backup))
    assert await operator.ended(job) is JobStatus.ERROR
    await undone(operator, admin, target)
    assert await read(postgres, target) == ["old"]


async def test_old_data_are_served_when_the_database_of_the_source_is_not_its_own(
    operator: Operator,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    """As after a server was restored: what has the name carries no mark of the source."""
    await admin.execute(f"COMMENT ON DATABASE \"{source.database}\" IS 'mine'")
    job = await reset(operator, target, CopyOrigin(source.instance_id, CopyMode.CLOSED))
    assert await operator.ended(job) is JobStatus.ERROR
    assert source.database in await reason(operator, job)
    await undone(operator, admin, target)
    assert await read(postgres, target) == ["old"]


@asynccontextmanager
async def held(
    operator: Operator, target: InstanceJob, origin: Origin
) -> AsyncIterator[tuple[InstanceJob, psutil.Process]]:
    """A reset whose pg_restore is held in the middle."""
    job = await reset(operator, target, origin)
    yield job, await suspended("pg_restore")


@pytest.mark.parametrize("kind", ["online", "backup"])
async def test_old_data_are_served_and_no_program_goes_on_when_the_job_is_cancelled(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(filling())
    origin = await origin_of(operator, source, kind)
    async with held(operator, target, origin) as (job, _):
        await write(postgres, target, "written meanwhile")
        assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
        assert await operator.ended(job) is JobStatus.ERROR
    assert [*at_work("pg_restore"), *at_work("pg_dump")] == []
    await undone(operator, admin, target)
    assert await read(postgres, target) == ["old", "written meanwhile"]
    assert await operator.ended(await operator.delete(source)) is JobStatus.COMPLETED


@pytest.mark.parametrize("kind", ["online", "backup"])
async def test_clients_are_told_how_far_it_is_and_no_place_of_other_jobs_is_taken_when_a_reset_takes_long(
    operator: Operator,
    api: httpx.AsyncClient,
    postgres: EmbeddedPostgres,
    target: InstanceJob,
    source: InstanceJob,
    settings: Settings,
    name: str,
    kind: str,
) -> None:
    async with session(service_dsn(postgres, source.database)) as inside:
        await inside.execute(filling())
    origin = await origin_of(operator, source, kind)
    async with held(operator, target, origin) as (job, program):
        # As many as there are places for DDL.
        others = [await operator.create(f"{name} {number}") for number in range(settings.ddl_concurrency)]
        for other in others:
            assert await operator.ended(other) is JobStatus.COMPLETED
        async with asyncio.timeout(30):
            while (shown := (await api.get(f"/v2/jobs/{job.job_id}")).json())["percent"] is None:
                assert shown["status"] == "InProgress", shown["errorMessage"]
                await asyncio.sleep(0.02)
        assert 0 <= shown["percent"] < 100
        program.send_signal(signal.SIGCONT)
        assert await operator.ended(job) is JobStatus.COMPLETED, await reason(operator, job)
    assert await read(postgres, target) == ["source"]


@pytest.mark.parametrize("kind", ORIGINS)
async def test_pass_drops_only_what_was_made_when_the_reset_was_cancelled_before_the_exchange(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    """What a worker leaves that dies between the two steps, without a workflow that goes on."""
    origin = await origin_of(operator, source, kind)
    lost = (await operator.instances.request_reset(target.instance_id, "Minimal", None, origin)).job
    assert (await operator.jobs.begin(lost)).held
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    killed = patch.object(replacing, "take_place", AsyncMock(side_effect=OSError("killed")))
    with killed, pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities.reset, lost)
    assert lost.replacement is not None
    assert await names(admin, target.mark) == [target.database, lost.replacement.database]
    assert await tenant.cancellations.cancel_lost(lost)
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    await undone(operator, admin, target)
    assert await read(postgres, target) == ["old"]


@pytest.mark.parametrize("kind", ORIGINS)
async def test_pass_records_the_origin_when_the_databases_were_exchanged_and_the_reset_was_cancelled(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    target: InstanceJob,
    source: InstanceJob,
    kind: str,
) -> None:
    origin = await origin_of(operator, source, kind)
    lost = (await operator.instances.request_reset(target.instance_id, "Minimal", None, origin)).job
    assert (await operator.jobs.begin(lost)).held
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    with patch.object(tenant.jobs, "finish_replacement", AsyncMock(return_value=False)):
        assert not (await ActivityEnvironment().run(activities.reset, lost)).is_recorded
    assert await tenant.cancellations.cancel_lost(lost)
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    after = await operator.instance(target)
    assert lost.replacement is not None
    assert (str(after.database_id), after.database.origin) == (
        lost.replacement.database_id,
        lost.replacement.origin,
    )
    assert await names(admin, target.mark) == [target.database, lost.trash_database]
    assert await read(postgres, target) == ["source"]
    assert await operator.ended(await undo(operator, target)) is JobStatus.COMPLETED
    assert await read(postgres, target) == ["old"]
