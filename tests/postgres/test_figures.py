"""What registries and servers tell for a scrape, and what jobs are counted as."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded.polling import wait_until
from ods.model.operations import InstanceStatus, Template
from ods.observability.metrics.catalog import (
    BACKUP_AGE,
    BACKUPS_UNVERIFIED,
    DATABASE_BYTES,
    INSTANCES,
    INSTRUMENTS,
    PENDING_OLDEST,
    SPARES_READY,
    SPARES_WANTED,
    STUCK,
    TRASH_BYTES,
    WAITING_FOR,
    Figure,
)
from ods.observability.metrics.figures import Figures, Sample
from ods.registry.backups.stored import StoredBackup
from ods.registry.figures import RegistryFigures
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob, JobWait
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import NameTakenError
from ods.settings.settings import Settings, VerifyPolicy
from ods.tenants import figures
from ods.tenants.tenant import Tenant, open_tenants
from tests.postgres.instance_states import marked_by
from tests.servers import make_tenant_settings, session


def values(samples: Sequence[Sample], figure: Figure) -> dict[tuple[str, ...], float]:
    return {it.labels: it.value for it in samples if it.figure == figure}


async def read(engine: AsyncEngine, settings: Settings) -> Sequence[Sample]:
    return await RegistryFigures(engine, "default", settings).read()


async def test_every_status_is_told_when_the_registry_is_empty(
    engine: AsyncEngine, settings: Settings
) -> None:
    samples = await read(engine, settings)

    assert values(samples, INSTANCES) == {(status, "default"): 0 for status in InstanceStatus}
    assert values(samples, STUCK) == {("default",): 0}
    assert values(samples, PENDING_OLDEST) == {("default",): 0}
    assert set(values(samples, WAITING_FOR).values()) == {0}
    assert values(samples, BACKUP_AGE) == {}
    assert values(samples, BACKUPS_UNVERIFIED) == {("default",): 0}


_ROWS = """
WITH made AS (
    INSERT INTO adminapi.managed_instances
        (name, odsinstanceid, state, databasetemplate, databasename, operation, arguments, jobnumber, attempt,
         lastmodifieddate)
    SELECT format('Row %s', number), number, state, 'Minimal', format('Row_%s', number), operation,
           CASE WHEN operation IN ('Create', 'Reset') THEN '{"origin": {}}' ELSE '{}' END::jsonb, 1, 1,
           timezone('utc', now()) - age
    FROM (VALUES
        (1, 'Completed', 'Create', interval '30 days'), (2, 'Completed', 'Create', interval '1 s'),
        (3, 'Pending', 'Create', interval '5 s'), (4, 'Pending', 'Create', interval '3 hours'),
        (5, 'InProgress', 'Create', interval '5 s'), (6, 'InProgress', 'Rename', interval '3 hours'),
        (7, 'InProgress', 'Backup', interval '3 hours'), (8, 'InProgress', 'Backup', interval '3 days'),
        (9, 'InProgress', 'Reset', interval '3 days'), (10, 'Error', 'Create', interval '30 days')
    ) AS row (number, state, operation, age)
    RETURNING id, odsinstanceid, state, operation, lastmodifieddate
)
INSERT INTO adminapi.jobstatuses (jobid, status, createdat, dbinstanceid, operation, waitingfor, waitingsince,
                                  waitinguntil)
SELECT format('%sInstanceJob-%s-1', operation, odsinstanceid), state, lastmodifieddate, id, operation,
       CASE WHEN odsinstanceid = 9 THEN 'The PostgreSQL server of the ODS databases cannot be reached.' END,
       CASE WHEN odsinstanceid = 9 THEN now() END, CASE WHEN odsinstanceid = 9 THEN now() END
FROM made WHERE state IN ('Pending', 'InProgress')
"""


async def test_instances_that_get_nowhere_are_told_apart_from_those_that_wait(
    engine: AsyncEngine, settings: Settings, registry_dsn: str
) -> None:
    async with session(registry_dsn) as registry:
        await registry.execute(_ROWS)
    samples = await read(engine, settings)

    counted = {labels[0]: value for labels, value in values(samples, INSTANCES).items() if value}
    assert counted == {"Completed": 2, "Pending": 2, "InProgress": 5, "Error": 1}
    assert values(samples, STUCK) == {("default",): 3}  # 4, 6 and 8
    assert values(samples, WAITING_FOR)["server", "default"] == 1
    assert sum(values(samples, WAITING_FOR).values()) == 1
    assert 3 * 3600 <= values(samples, PENDING_OLDEST)["default",] < 3 * 3600 + 60


@pytest.mark.parametrize(
    ("columns", "stuck"),
    [
        ("operation = 'Create'", 1),
        ("""arguments = '{"origin": {"instance_id": 1}}'""", 0),
        ("""arguments = '{"origin": {"backup_id": "a"}}'""", 0),
        ("""operation = 'Reset', arguments = '{"origin": {}}'""", 1),
        ("""operation = 'Reset', arguments = '{"origin": {"database_id": "a"}}'""", 1),
        ("""operation = 'Reset', arguments = '{"origin": {"instance_id": 1}}'""", 0),
        ("""operation = 'Reset', arguments = '{"origin": {"backup_id": "a"}}'""", 0),
        ("""operation = 'Purge', arguments = '{"backup_first": false}'""", 1),
        ("""operation = 'Purge', arguments = '{"backup_first": true}'""", 0),
        ("""operation = 'Delete', arguments = '{"keep": true, "backup_first": true}'""", 1),
    ],
)
async def test_job_has_a_day_when_it_copies_a_database_through_programs(
    engine: AsyncEngine, settings: Settings, rows: asyncpg.Connection, columns: str, stuck: int
) -> None:
    await rows.execute(
        "INSERT INTO adminapi.dbinstances (name, odsinstanceid, state, databasetemplate, operation)"
        " VALUES ('Row', 1, 'InProgress', 'Minimal', 'Create')"
    )
    hours_ago = "timezone('utc', now()) - interval '3 hours'"
    await rows.execute(f"UPDATE adminapi.dbinstances SET {columns}, lastmodifieddate = {hours_ago}")  # noqa: S608
    assert values(await read(engine, settings), STUCK) == {("default",): stuck}


def counted(outcome: str, operation: str = "Create") -> float:
    labels = {"operation": operation, "outcome": outcome, "tenant": "default"}
    return INSTRUMENTS.get_sample_value("ods_jobs_total", labels) or 0


def measured(phase: str) -> tuple[float, float]:
    """How many times a phase was measured, and the seconds of all."""
    labels = {"operation": "Create", "phase": phase}
    return tuple(
        INSTRUMENTS.get_sample_value(f"ods_job_duration_seconds_{what}", labels) or 0
        for what in ("count", "sum")
    )  # type: ignore[return-value]


@pytest.fixture
async def job(instances: InstanceStore, name: str) -> InstanceJob:
    """A create that waits."""
    return (await instances.reserve(name, Template.MINIMAL)).job


async def test_job_is_counted_once_when_its_end_is_recorded_twice(
    job: InstanceJob, job_store: JobStore
) -> None:
    before, queue, total = counted("completed"), measured("queue"), measured("total")
    for _ in range(2):
        assert (await job_store.begin(job)).held
    for _ in range(2):
        assert await job_store.finish_create(job, "encrypted")

    assert counted("completed") == before + 1
    for phase, (count, seconds) in (("queue", queue), ("total", total)):
        assert measured(phase)[0] == count + 1
        assert 0 <= measured(phase)[1] - seconds < 10


async def test_what_a_job_has_waited_for_is_not_measured_when_it_ends(
    job: InstanceJob, job_store: JobStore, registry_dsn: str
) -> None:
    assert (await job_store.begin(job)).held
    async with session(registry_dsn) as registry:
        await registry.execute("UPDATE adminapi.jobstatuses SET createdat = createdat - interval '3 hours'")
    await job_store.record_wait(JobWait(job, "The server is away.", 7200, 60))
    before = measured("total")[1]
    assert await job_store.finish_create(job, "encrypted")
    assert measured("total")[1] - before == pytest.approx(3600, abs=60)


async def test_job_is_not_counted_when_its_end_is_rolled_back(
    job: InstanceJob, job_store: JobStore, registry_dsn: str
) -> None:
    async with session(registry_dsn) as registry:
        await registry.execute(
            "INSERT INTO dbo.odsinstances (name, instancetype, connectionstring) VALUES ($1, $2, 'other')",
            *(job.name, job.template),
        )
    before = counted("completed"), counted("failed")
    assert (await job_store.begin(job)).held
    with pytest.raises(NameTakenError):
        await job_store.finish_create(job, "encrypted")
    assert (counted("completed"), counted("failed")) == before

    assert await job_store.fail(job, "The name is taken.")
    assert (counted("completed"), counted("failed")) == (before[0], before[1] + 1)


async def test_sizes_are_told_by_tenant_when_databases_carry_marks(
    settings: Settings, job: InstanceJob, admin: asyncpg.Connection
) -> None:
    def comment(installation: str) -> str:
        return replace(marked_by(job), tenant="measured", installation=installation).comment

    async with open_tenants(make_tenant_settings({"measured": settings})) as (tenant,):
        own = comment((await tenant.jobs.installation.state()).id)
        names = {
            "sized": own,
            job.trash_database: own,
            "of_another_installation": comment("00000000-0000-0000-0000-000000000001"),
            "unmarked": "",
        }
        others = await _bytes_told(tenant)  # of other tests, whose databases carry the same installation
        for database, text in names.items():
            await admin.execute(f'CREATE DATABASE "{database}"')
            await admin.execute(f"COMMENT ON DATABASE \"{database}\" IS '{text}'")
        try:
            told = await _bytes_told(tenant)
            size = "SELECT pg_database_size($1::name)"
            sized, trash = [await admin.fetchval(size, it) for it in list(names)[:2]]
        finally:
            for database in names:
                await admin.execute(f'DROP DATABASE "{database}"')
    assert told[TRASH_BYTES] - others[TRASH_BYTES] == pytest.approx(trash, rel=0.05)
    assert told[DATABASE_BYTES] - others[DATABASE_BYTES] == pytest.approx(sized + trash, rel=0.05)


async def _bytes_told(tenant: Tenant) -> Mapping[Figure, float]:
    """How many bytes the figures tell of the tenant's databases."""
    asked = Figures(figures.questions([tenant]))
    samples: Sequence[Any] = await asked.samples()
    await asked.close()
    return {it: values(samples, it).get(("measured",), 0) for it in (TRASH_BYTES, DATABASE_BYTES)}


async def test_pools_are_told_when_connections_are_in_use(tenant: Tenant) -> None:
    async with tenant.engine.connect(), tenant.server.session():
        found = {it.labels: it.value for it in figures.pool_samples([tenant])}
    assert found["registry", "in_use", "default"] == found["server", "in_use", "default"] == 1
    after = {it.labels: it.value for it in figures.pool_samples([tenant])}
    assert after["registry", "in_use", "default"] == after["server", "in_use", "default"] == 0
    assert after["registry", "idle", "default"] == after["server", "idle", "default"] == 1
    assert after["registry", "default"] == 10


def backups(outcome: str) -> float:
    labels = {"kind": "requested", "outcome": outcome, "tenant": "default"}
    return INSTRUMENTS.get_sample_value("ods_backups_total", labels) or 0


async def test_backup_is_counted_by_how_it_ended_and_tells_its_age(tenant: Tenant, job: InstanceJob) -> None:
    assert (await tenant.jobs.begin(job)).held
    assert await tenant.jobs.finish_create(job, "encrypted")
    before = backups("completed"), backups("failed")

    lost = (await tenant.instances.request_backup(job.instance_id, "requested")).job
    await tenant.jobs.begin(lost)
    for _ in range(2):
        assert await tenant.jobs.fail(lost, "The store is full.")
    assert (backups("completed"), backups("failed")) == (before[0], before[1] + 1)

    kept = (await tenant.instances.request_backup(job.instance_id, "requested")).job
    await tenant.jobs.begin(kept)
    at = datetime.now(UTC) - timedelta(hours=1)
    stored = StoredBackup(str(uuid4()), "file:///b", 1, 2, "0" * 64, "1" * 64, "18.1", False, at, at)
    for _ in range(2):
        assert (await tenant.jobs.finish_backup(kept, stored, VerifyPolicy.NEVER)).recorded
    assert (backups("completed"), backups("failed")) == (before[0] + 1, before[1] + 1)
    samples = await read(tenant.engine, tenant.settings)
    assert 3600 <= values(samples, BACKUP_AGE)["default",] < 3660


_BACKUPS = """
INSERT INTO adminapi.backups (id, instanceid, odsinstanceid, mark, installation, name, kind, jobid, template,
                              createdat, details, storedid, finishedat, verification, deletedat, unchangedat)
SELECT gen_random_uuid(), 1, 1, gen_random_uuid(), gen_random_uuid(), 'A', 'requested', 'a job', 'Minimal',
       at, '{}', gen_random_uuid(), at, verification, deletedat, unchangedat
FROM (SELECT timezone('utc', now()) - age, verification, deletedat, unchangedat FROM (VALUES
    (interval '30 days', 'Completed', NULL, NULL), (interval '30 days', NULL, NULL, NULL),
    (interval '1 hour', 'Pending', NULL, NULL), (interval '1 hour', 'Error', NULL, NULL),
    (interval '2 days', 'Pending', NULL, NULL), (interval '2 days', 'InProgress', NULL, NULL),
    (interval '2 days', 'Error', timestamp '2026-01-01', NULL),
    (interval '2 days', 'Pending', NULL, timezone('utc', now()) - interval '1 hour'),
    (interval '9 days', 'Pending', NULL, timezone('utc', now()) - interval '2 days'),
    (interval '9 days', 'Pending', NULL, timestamp '2086-01-01')
) AS row (age, verification, deletedat, unchangedat)) AS row (at, verification, deletedat, unchangedat)
"""


async def test_backups_are_told_that_are_not_whole_or_not_verified_in_time(
    engine: AsyncEngine, settings: Settings, registry_dsn: str
) -> None:
    async with session(registry_dsn) as registry:
        await registry.execute(_BACKUPS)
    assert values(await read(engine, settings), BACKUPS_UNVERIFIED) == {("default",): 5}


async def test_few_rows_are_read_when_there_are_many_backups(
    engine: AsyncEngine, settings: Settings, registry_dsn: str
) -> None:
    async with session(registry_dsn) as registry:
        for _ in range(200):
            await registry.execute(_BACKUPS)
        await registry.execute("UPDATE adminapi.backups SET verification = 'Completed'")
        await registry.execute("VACUUM ANALYZE adminapi.backups")
        await registry.execute("SELECT pg_stat_force_next_flush()")
        all_rows, by_index = await scans(registry)
        await read(engine, settings)
        await engine.dispose()  # its session tells what it has read when it ends

        async def is_told() -> bool:
            return await scans(registry) == (all_rows, by_index + 1)

        await wait_until(is_told, 10)


async def scans(registry: asyncpg.Connection) -> tuple[int, int]:
    """How often the table of backups was read as a whole, and by the index."""
    scanned = "SELECT pg_stat_get_numscans($1::text::regclass)"
    relations = ("adminapi.backups", "adminapi.ix_backups_unverified")
    all_rows, by_index = [await registry.fetchval(scanned, relation) for relation in relations]
    return all_rows, by_index


async def test_spares_are_told_by_template_when_some_are_wanted(settings: Settings) -> None:
    wanting = settings.model_copy(update={"spares": 2})
    async with open_tenants(wanting) as (tenant,):
        asked = Figures(figures.questions([tenant]))
        samples = await asked.samples()
        await asked.close()
    assert values(samples, SPARES_READY) == {("Minimal", "default"): 0, ("Sample", "default"): 0}
    assert values(samples, SPARES_WANTED) == {("Minimal", "default"): 2, ("Sample", "default"): 2}
