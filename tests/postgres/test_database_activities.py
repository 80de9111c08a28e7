"""Clones and drops ask the registry, while they hold the fence, whether they are still wanted."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from temporalio.converter import default
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import passes as reconciling
from activities.databases import DatabaseActivities
from activities.errors import OUTAGE
from activities.job_fence import ConcurrencyLimit
from activities.passes import Leftovers, ReconcileActivities, StuckPage, SweepPage
from ods.databases import provisioning
from ods.databases.constants import DISK_FULL
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import opened_by, with_opening
from ods.databases.server import Server
from ods.databases.statements import execute
from ods.databases.templates import spares
from ods.databases.templates.marks import TemplateMark, TemplateState
from ods.databases.templates.spare_pool import Limits, SpareOrder, SparePool
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.model.revisions import KnownRevisions
from ods.registry.instances.adoptions import DatabaseName
from ods.registry.instances.cancelling import CANCELLED_IN_DOUBT
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore, Position
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.instances.versions import VersionPurge
from ods.settings.settings import CloneStrategy
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to, let_requests_pass
from tests.postgres.postgres_inspection import FENCE_AWAITED, FENCES_HELD, exists, row_of, until
from tests.postgres.test_cancelled_drops import NO_PASSES
from tests.servers import MINIMAL_TEMPLATE, NUMBERS, SAMPLE_TEMPLATE, session, with_statements

Activities = Callable[[Any], DatabaseActivities]


@pytest.fixture
def activities(tenant: Tenant) -> Activities:
    """The activities with a job store of the test's choice."""

    def make(jobs: Any) -> DatabaseActivities:
        return DatabaseActivities(replace(tenant, jobs=jobs), ConcurrencyLimit(1))

    return make


@pytest.fixture
async def job(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """A job that has begun."""
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert (await job_store.begin(job)).held
    return job


def _like(job_store: JobStore, **replaced: Any) -> Any:
    """The job store, but for the methods that are replaced."""
    return cast("Any", SimpleNamespace(installation=job_store.installation, **replaced))


def _answering(job_store: JobStore, *answers: bool) -> Any:
    """A job store that answers the question whether a job holds its instance, each time from the next."""
    remaining = list(answers)

    async def position(*_: object) -> Position | None:
        return _RUNNING if remaining.pop(0) else None

    async def holds(*_: object) -> bool:
        return False

    return _like(job_store, position=position, holds=holds, remaining=remaining)


_RUNNING = Position(
    InstanceStatus.IN_PROGRESS,
    waits=False,
    known=KnownRevisions(),
    is_cancelled=False,
    is_in_trash=False,
)


async def _databases(admin: asyncpg.Connection, job: InstanceJob) -> set[str]:
    names = [job.database, owner_of(job).staging_name]
    rows = await admin.fetch("SELECT datname FROM pg_database WHERE datname = ANY($1)", names)
    return {row["datname"] for row in rows}


async def test_database_is_made_when_the_job_holds_the_instance(
    activities: Activities, job_store: JobStore, job: InstanceJob, admin: asyncpg.Connection
) -> None:
    provisioned = await ActivityEnvironment().run(activities(job_store).provision, job)
    assert (provisioned.size_bytes or 0) > 1_000_000
    assert await _databases(admin, job) == {job.database}


async def test_no_clone_is_begun_for_a_while_when_the_disk_is_full(
    tenant: Tenant, job: InstanceJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = AsyncMock(side_effect=DatabaseFaultError("full", outage=True, sqlstate=DISK_FULL))
    monkeypatch.setattr(provisioning, "provision", clone)
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1))
    told = []
    for _ in range(2):
        with pytest.raises(ApplicationError) as raised:
            await ActivityEnvironment().run(activities.provision, job)
        told.append((raised.value.type, raised.value.message))
    assert told[0] == (OUTAGE, "full")
    assert told[1][0] == OUTAGE
    assert "clones pause" in told[1][1]
    assert clone.await_count == 1


async def test_refill_is_not_requested_when_the_template_was_cloned(tenant: Tenant, job: InstanceJob) -> None:
    refill = Mock()
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1), refill)
    assert (await ActivityEnvironment().run(activities.provision, job)).is_recorded
    refill.assert_not_called()


@pytest.mark.parametrize("refilled", [True, False])
async def test_spare_is_taken_and_a_refill_requested_when_spares_are_refilled(
    tenant: Tenant, instances: InstanceStore, job: InstanceJob, admin: asyncpg.Connection, *, refilled: bool
) -> None:
    installation = (await instances.installation.require_confirmed()).id
    spare = await _spare(tenant.server, installation)
    before = await admin.fetchval(_OID, spare)
    refill = Mock()
    activities = DatabaseActivities(tenant, ConcurrencyLimit(1), refill if refilled else None)
    provisioned = await ActivityEnvironment().run(activities.provision, job)
    assert provisioned.is_recorded
    assert refill.call_count == refilled
    assert (await admin.fetchval(_OID, job.database) == before) is refilled
    await admin.execute(f'DROP DATABASE IF EXISTS "{spare}"')


_OID = "SELECT oid::int8 FROM pg_database WHERE datname = $1"


async def _spare(server: Server, installation: str) -> str:
    async def identity() -> str:
        return installation

    limits = Limits(of_template=1, in_all=1, size_bytes=10**12)
    pool = SparePool(server, identity, [MINIMAL_TEMPLATE], CloneStrategy.AUTO, limits)
    order = SpareOrder(spares.new_name(installation), MINIMAL_TEMPLATE)
    await pool.replenish(order)
    return order.name


async def test_outcome_is_recorded_on_the_way_when_the_registry_can_take_it(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    job: InstanceJob,
) -> None:
    assert (await ActivityEnvironment().run(activities(job_store).provision, job)).is_recorded
    assert (await queries.instance(job.instance_id)).status == "Completed"
    assert await queries.ods_instance(job.ods_instance_id) is not None

    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    assert (await ActivityEnvironment().run(activities(job_store).drop, deletion)).is_recorded
    (deleted,) = await queries.instances(offset=0, limit=1, instance_id=job.instance_id)
    assert deleted.status == "Deleted"


async def test_outcome_stands_when_temporal_did_not_hear_of_it(
    activities: Activities, instances: InstanceStore, job_store: JobStore, job: InstanceJob
) -> None:
    for _ in range(2):
        assert (await ActivityEnvironment().run(activities(job_store).provision, job)).is_recorded

    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    for _ in range(2):
        assert (await ActivityEnvironment().run(activities(job_store).drop, deletion)).is_recorded


async def test_outcome_is_left_to_the_workflow_when_the_registry_went_away(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    job: InstanceJob,
) -> None:
    async def away(*_: object) -> bool:
        raise OSError("registry away")

    going = _like(job_store, position=job_store.position, finish_create=away, finish_delete=away)
    assert not (await ActivityEnvironment().run(activities(going).provision, job)).is_recorded
    assert (await queries.instance(job.instance_id)).status == "InProgress"


@pytest.fixture
async def generation(admin: asyncpg.Connection) -> AsyncIterator[int]:
    """A generation of the template `Minimal`, as if a load had published it."""
    mark = TemplateMark(str(uuid.uuid4()), "Minimal", TemplateState.PUBLISHED, generation=7)
    comment = f'COMMENT ON DATABASE "{MINIMAL_TEMPLATE}" IS '
    async with with_statements(admin, f"{comment}'{mark.comment}'", f"{comment}NULL"):
        yield mark.generation


async def test_generation_of_the_template_is_recorded_when_the_outcome_is(
    activities: Activities, job_store: JobStore, queries: InstanceQueries, job: InstanceJob, generation: int
) -> None:
    assert (await queries.instance(job.instance_id)).database.template_generation is None
    provisioned = await ActivityEnvironment().run(activities(job_store).provision, job)
    assert provisioned.template_generation == generation
    assert (await queries.instance(job.instance_id)).database.template_generation == generation


async def test_generation_of_the_template_is_recorded_when_a_failed_create_follows_its_database(
    activities: Activities, job_store: JobStore, queries: InstanceQueries, job: InstanceJob, generation: int
) -> None:
    async def away(*_: object) -> bool:
        raise OSError("registry away")

    going = _like(job_store, position=job_store.position, finish_create=away)
    provisioned = await ActivityEnvironment().run(activities(going).provision, job)
    assert (provisioned.is_recorded, provisioned.template_generation) == (False, generation)
    await job_store.fail(job, "gave up")
    assert await ActivityEnvironment().run(activities(job_store).compensate, job)
    assert (await queries.instance(job.instance_id)).database.template_generation == generation


async def test_as_many_databases_are_worked_on_at_once_as_there_are_slots(
    activities: Activities, instances: InstanceStore, job_store: JobStore, admin: asyncpg.Connection
) -> None:
    """The others, fetched before it was their turn, hold no fence yet."""
    fences: list[int] = []

    async def position(*_: object) -> Position:
        fences.append(await admin.fetchval(FENCES_HELD))
        return _RUNNING

    async def finish_create(*_: object) -> bool:
        return True

    watched = activities(_like(job_store, position=position, finish_create=finish_create))
    names = [f"Turn {next(NUMBERS)}" for _ in range(3)]
    jobs = [(await instances.reserve(name, Template.MINIMAL)).job for name in names]
    await asyncio.gather(*(ActivityEnvironment().run(watched.provision, job) for job in jobs))
    assert fences == [1, 1, 1]
    for job in jobs:
        assert await _databases(admin, job) == {job.database}


async def test_job_is_left_to_another_worker_when_its_worker_stops_before_it_has_a_slot(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    working, stopping = asyncio.Event(), asyncio.Event()

    async def position(*_: object) -> Position:
        working.set()
        await stopping.wait()
        return _RUNNING

    watched = activities(_like(job_store, position=position, finish_create=job_store.finish_create))
    waiting = (await instances.reserve(f"Turn {next(NUMBERS)}", Template.MINIMAL)).job
    environments = [ActivityEnvironment() for _ in range(2)]
    first = asyncio.create_task(environments[0].run(watched.provision, job))
    await working.wait()
    second = asyncio.create_task(environments[1].run(watched.provision, waiting))
    for environment in environments:
        environment.worker_shutdown()
    stopping.set()
    with pytest.raises(ApplicationError) as missed:
        await second
    assert (missed.value.type, missed.value.non_retryable) == ("SlotMissed", False)
    assert await _databases(admin, waiting) == set()
    assert (await first).is_recorded


@pytest.mark.parametrize("stale", ["older attempt", "older job", "failed", "another mark"])
async def test_nothing_is_made_when_the_job_is_late(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
    stale: str,
) -> None:
    if stale == "older attempt":
        job = replace(job, attempt=job.attempt - 1)
    elif stale == "older job":
        job = replace(job, request=str(uuid.uuid4()))
    elif stale == "failed":
        await job_store.fail(job, "gave up")
    else:
        job = replace(job, mark=str(uuid.uuid4()))
    with pytest.raises(ApplicationError) as refused:
        await ActivityEnvironment().run(activities(job_store).provision, job)
    assert (refused.value.type, refused.value.non_retryable) == ("Superseded", True)
    assert await _databases(admin, job) == set()


async def test_nothing_is_made_when_the_instance_moved_on_while_the_fence_was_taken(
    activities: Activities,
    job_store: JobStore,
    server: Server,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    answering = _answering(job_store, True, False)
    owner = owner_of(job)
    async with server.fenced(owner):
        late = asyncio.create_task(ActivityEnvironment().run(activities(answering).provision, job))
        await until(lambda: admin.fetchval(FENCE_AWAITED))
    with pytest.raises(ApplicationError):
        await late
    assert answering.remaining == []
    assert await _databases(admin, job) == set()


async def test_fence_is_left_alone_when_the_job_is_late(
    activities: Activities, job_store: JobStore, server: Server, job: InstanceJob
) -> None:
    async with server.fenced(owner_of(job)) as session:
        with pytest.raises(ApplicationError):
            await ActivityEnvironment().run(activities(_answering(job_store, False)).provision, job)
        assert await session.fetchval("SELECT 1") == 1


async def test_nothing_is_dropped_when_the_delete_is_late(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await ActivityEnvironment().run(activities(job_store).provision, job)
    await job_store.finish_create(job, "any")
    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    for late in (job, deletion):  # the second has not begun
        with pytest.raises(ApplicationError):
            await ActivityEnvironment().run(activities(job_store).drop, late)
    assert await _databases(admin, job) == {job.database}
    assert (await job_store.begin(deletion)).held
    await ActivityEnvironment().run(activities(job_store).drop, deletion)
    assert await _databases(admin, job) == set()


async def test_retried_database_stays_when_the_clean_up_of_the_failure_before_is_late(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await job_store.fail(job, "gave up")
    retry = (await instances.request_retry(job.instance_id)).job
    await job_store.begin(retry)
    await ActivityEnvironment().run(activities(job_store).provision, retry)
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities(job_store).compensate, job)
    assert await _databases(admin, job) == {job.database}


async def test_published_database_stays_and_the_instance_follows_it_when_its_create_has_failed(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    job: InstanceJob,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
) -> None:
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", job.name)
    provisioned = await ActivityEnvironment().run(activities(job_store).provision, job)
    assert not provisioned.is_recorded
    await job_store.fail(job, "name taken")
    assert not await ActivityEnvironment().run(activities(job_store).compensate, job)
    instance = await queries.instance(job.instance_id)
    assert instance.status == "Error"
    assert f"The database '{job.database}' of this instance is there" in (instance.error_message or "")

    await rows.execute("DELETE FROM dbo.odsinstances")
    assert await ActivityEnvironment().run(activities(job_store).compensate, job)
    assert await _databases(admin, job) == {job.database}
    assert (await queries.instance(job.instance_id)).status == "Completed"
    assert await queries.ods_instance(job.ods_instance_id) is not None


@pytest.mark.parametrize("last", ["delete", "purge"])
async def test_database_in_the_trash_is_closed_when_the_registry_does_not_know_the_job_that_has_opened_it(
    tenant: Tenant,
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
    last: str,
) -> None:
    """It was put back to before that; or another purge, without a backup, has failed since."""
    does = activities(job_store)
    await ActivityEnvironment().run(does.provision, job)
    ended = (await instances.request_delete(job.instance_id, Delete(Way.TRASH))).job
    await job_store.begin(ended)
    await ActivityEnvironment().run(does.trash, ended)
    if last == "purge":
        ended = (await instances.request_purge(job.instance_id)).job
        await job_store.begin(ended)
        await job_store.fail(ended, "gave up")
    kept = str(ended.trash_database)
    row = await row_of(admin, kept)
    assert row is not None
    opened = with_opening(row["comment"], "PurgeInstanceJob-1-9").replace("'", "''")
    await admin.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
    await admin.execute(f"COMMENT ON DATABASE \"{kept}\" IS '{opened}'")

    pass_ = ReconcileActivities(
        AsyncMock(),
        job_store,
        tenant.server,
        AsyncMock(),
        Mock(),
        Mock(),
        AsyncMock(),
        instances,
        tenant.versions,
        tenant.cancellations,
    )
    (left,) = [
        one
        for one in (await ActivityEnvironment().run(pass_.find_leftovers)).jobs
        if one.instance_id == job.instance_id
    ]
    await ActivityEnvironment().run(does.compensate, left)
    row = await row_of(admin, kept)
    assert row is not None
    assert (row["datallowconn"], opened_by(row["comment"])) == (False, None)
    await admin.execute(f'DROP DATABASE "{kept}"')


async def test_live_database_stays_when_the_registry_was_put_back_to_before_its_create_succeeded(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    job: InstanceJob,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
) -> None:
    await job_store.fail(job, "template in use")
    retry = (await instances.request_retry(job.instance_id)).job
    await job_store.begin(retry)
    assert (await ActivityEnvironment().run(activities(job_store).provision, retry)).is_recorded
    await rows.execute("DELETE FROM dbo.odsinstances")
    await rows.execute("UPDATE adminapi.dbinstances SET status = 'Error', attempt = 1")
    await rows.execute("UPDATE adminapi.databases SET publishedat = NULL")
    restored = replace(retry, attempt=1)

    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    with pytest.raises(ApplicationError, match="the registry knows nothing of that") as refused:
        await ActivityEnvironment().run(activities(job_store).drop, deletion)
    assert (refused.value.type, refused.value.non_retryable) == ("DisagreementError", True)
    assert await _databases(admin, job) == {job.database}

    await rows.execute(
        "UPDATE adminapi.dbinstances"
        " SET status = 'Error', operation = 'Create', arguments = '{\"origin\": {}}', jobnumber = 1,"
        " request = $1, attempt = 1",
        uuid.UUID(job.request),
    )
    assert await ActivityEnvironment().run(activities(job_store).compensate, restored)
    assert await _databases(admin, job) == {job.database}
    instance = await queries.instance(job.instance_id)
    assert instance.status == "Completed"


async def test_live_database_stays_when_the_delete_that_a_restored_registry_refused_is_requested_anew(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
) -> None:
    await job_store.fail(job, "template in use")
    retry = (await instances.request_retry(job.instance_id)).job
    await job_store.begin(retry)
    assert (await ActivityEnvironment().run(activities(job_store).provision, retry)).is_recorded
    await rows.execute("UPDATE adminapi.databaserevisions SET id = gen_random_uuid()")
    for _ in range(2):
        deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        assert (await job_store.begin(deletion)).held
        with pytest.raises(ApplicationError, match="registry does not know the state"):
            await ActivityEnvironment().run(activities(job_store).drop, deletion)
        assert await job_store.fail(deletion, "refused")
        assert await _databases(admin, job) == {job.database}


async def test_nothing_begins_when_another_database_was_handed_over_since_the_job_was_read(
    activities: Activities,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    assert (await ActivityEnvironment().run(activities(job_store).provision, job)).is_recorded
    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    await job_store.fail(deletion, "The server was away.", outage=True)
    (unfinished,) = await job_store.unfinished_deletes({})
    async with tenant.adoptions.adopting(job.instance_id, DatabaseName(f"{job.database}_2", "any")):
        pass
    due = await job_store.release(unfinished)
    assert due is not None
    assert not (await job_store.begin(due)).held
    (waiting,) = await job_store.waiting_jobs(0, 10)
    assert waiting.database == f"{job.database}_2"
    assert (await job_store.begin(waiting)).held


async def test_neither_is_dropped_when_one_was_set_aside_with_its_mark_before_a_rename_and_a_delete(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    job: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await ActivityEnvironment().run(activities(job_store).provision, job)
    aside = f"{job.database}_aside"
    comment = await admin.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", job.database
    )
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{aside}"')
    try:
        await admin.execute(f'CREATE DATABASE "{job.database}" OWNER ods_service')
        await admin.execute(f"COMMENT ON DATABASE \"{job.database}\" IS '{comment}'")
        renaming = (await instances.request_rename(job.instance_id, f"{job.name} new")).job
        await job_store.begin(renaming)
        await ActivityEnvironment().run(activities(job_store).rename, renaming)
        assert await job_store.finish_rename(renaming, "any")
        assert await _names(admin, job) == {renaming.new_database, aside}
        deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
        await job_store.begin(deletion)
        with pytest.raises(ApplicationError, match="Both"):
            await ActivityEnvironment().run(activities(job_store).drop, deletion)
        assert await _names(admin, job) == {renaming.new_database, aside}
        await admin.execute(f'COMMENT ON DATABASE "{aside}" IS NULL')  # as the reason says
        assert (await ActivityEnvironment().run(activities(job_store).drop, deletion)).is_recorded
        assert await _names(admin, job) == set()
        assert await exists(admin, aside)
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{aside}" WITH (FORCE)')


@pytest.fixture
async def renaming(
    activities: Activities, instances: InstanceStore, job_store: JobStore, job: InstanceJob
) -> InstanceJob:
    """A rename that has begun, of a database that is there."""
    await ActivityEnvironment().run(activities(job_store).provision, job)
    await job_store.finish_create(job, "any")
    renaming = (await instances.request_rename(job.instance_id, f"{job.name} new")).job
    assert (await job_store.begin(renaming)).held
    return renaming


def _size(value: object) -> int:
    """Of a result as Temporal gets it, in bytes."""
    return default().payload_converter.to_payload(value).ByteSize()


async def _names(admin: asyncpg.Connection, job: InstanceJob) -> set[str]:
    rows = await admin.fetch(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1", f"%{job.mark}%"
    )
    return {row["datname"] for row in rows}


async def test_database_has_the_new_name_and_again_the_old_when_its_rename_fails_in_the_end(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await ActivityEnvironment().run(activities(job_store).rename, renaming)
    assert await _names(admin, renaming) == {renaming.new_database}
    await job_store.fail(renaming, "name taken")
    await ActivityEnvironment().run(activities(job_store).compensate, renaming)
    assert await _names(admin, renaming) == {renaming.database}


async def test_nothing_is_renamed_when_the_rename_is_late(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    for late in (replace(renaming, attempt=0), replace(renaming, request=str(uuid.uuid4()))):
        with pytest.raises(ApplicationError) as refused:
            await ActivityEnvironment().run(activities(job_store).rename, late)
        assert refused.value.type == "Superseded"
    await job_store.fail(renaming, "gave up")
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities(job_store).rename, renaming)
    assert await _names(admin, renaming) == {renaming.database}


async def test_retried_rename_stays_when_the_clean_up_of_the_failure_before_is_late(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await job_store.fail(renaming, "gave up")
    retry = (await instances.request_retry(renaming.instance_id)).job
    await job_store.begin(retry)
    await ActivityEnvironment().run(activities(job_store).rename, retry)
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(activities(job_store).compensate, renaming)
    assert await _names(admin, renaming) == {renaming.new_database}


async def test_database_is_dropped_when_a_failed_rename_has_left_it_another_name(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await ActivityEnvironment().run(activities(job_store).rename, renaming)
    await job_store.fail(renaming, "gave up, and the server was away")
    deletion = (await instances.request_delete(renaming.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    await ActivityEnvironment().run(activities(job_store).drop, deletion)
    assert await _names(admin, renaming) == set()


async def test_failed_rename_is_left_over_when_its_database_was_not_renamed_back(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    server: Server,
) -> None:
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, unused, unused, AsyncMock(), unused, unused, unused
    )

    async def leftovers() -> list[InstanceJob]:
        return (await ActivityEnvironment().run(reconcile.find_leftovers)).jobs

    await ActivityEnvironment().run(activities(job_store).rename, renaming)
    assert await leftovers() == []
    await job_store.fail(renaming, "gave up, and the server was away")
    assert await leftovers() == [renaming]
    await ActivityEnvironment().run(activities(job_store).compensate, renaming)
    assert await leftovers() == []


async def test_database_is_opened_again_when_the_workflow_of_its_cancelled_delete_was_lost(
    activities: Activities, tenant: Tenant, instances: InstanceStore, server: Server, name: str
) -> None:
    job_store = tenant.jobs
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert (await job_store.begin(job)).held
    assert (await ActivityEnvironment().run(activities(job_store).provision, job)).is_recorded
    deletion = (await instances.request_delete(job.instance_id, Delete(Way.DROP))).job
    assert (await job_store.begin(deletion)).held
    async with server.session() as session:
        await execute(session, "ALTER DATABASE %I ALLOW_CONNECTIONS false", job.database)
    assert await tenant.cancellations.record(deletion)
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        *(
            AsyncMock(),
            job_store,
            server,
            unused,
            unused,
            unused,
            AsyncMock(),
            unused,
            unused,
            tenant.cancellations,
        )
    )
    assert not await ActivityEnvironment().run(reconcile.restart, deletion)
    (left,) = (await ActivityEnvironment().run(reconcile.find_leftovers)).jobs
    assert left.job_id == deletion.job_id
    await ActivityEnvironment().run(activities(job_store).compensate, left)
    async with server.connected(job.database):
        pass
    assert (await ActivityEnvironment().run(reconcile.find_leftovers)).jobs == []


async def test_what_is_left_over_fits_a_result_when_its_instance_has_had_many_requests(
    job_store: JobStore, renaming: InstanceJob, server: Server, rows: asyncpg.Connection
) -> None:
    await job_store.fail(renaming, "gave up, and the server was away")
    await let_requests_pass(rows, renaming.instance_id, 60_000)
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, unused, unused, AsyncMock(), unused, unused, unused
    )
    found = await ActivityEnvironment().run(reconcile.find_leftovers)
    assert found == Leftovers([renaming], more=False)
    assert _size(found) < 5_000


async def test_leftovers_come_in_pages_when_they_are_too_large_for_one_result(
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    rows: asyncpg.Connection,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = [await bring_to(instances, job_store, "Completed", f"{name} {number}") for number in range(3)]
    await rows.execute("UPDATE adminapi.dbinstances SET undodue = true")
    monkeypatch.setattr(reconciling, "_MAX_BYTES", 2.5 * _size(jobs[0]))
    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, unused, unused, AsyncMock(), unused, unused, unused
    )
    first = await ActivityEnvironment().run(reconcile.find_leftovers)
    assert [one.instance_id for one in first.jobs] == [one.instance_id for one in jobs[:2]]
    assert first.more
    rest = await ActivityEnvironment().run(reconcile.find_leftovers, first.jobs[-1].instance_id)
    assert ([one.instance_id for one in rest.jobs], rest.more) == ([jobs[2].instance_id], False)


async def test_stuck_jobs_come_in_pages_when_they_are_too_large_for_one_result(
    instances: InstanceStore,
    job_store: JobStore,
    server: Server,
    rows: asyncpg.Connection,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And of the deletes that an outage has ended, a pass takes as many as fit."""
    ended = []
    for number in range(2):
        created = await bring_to(instances, job_store, "Completed", f"{name} {number}")
        delete = (await instances.request_delete(created.instance_id)).job
        assert (await job_store.begin(delete)).held
        assert await job_store.fail(delete, "The server was away.", outage=True)
        ended.append(delete)
    stuck = [(await instances.reserve(f"{name} stuck {number}", Template.MINIMAL)).job for number in range(3)]
    for job in stuck:
        assert (await job_store.begin(job)).held
    unused = cast("Any", None)
    idle = AsyncMock(return_value=False)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, idle, unused, unused, unused, unused, unused
    )
    monkeypatch.setattr(reconciling, "_MAX_BYTES", 1)  # one fits at least
    pages: list[list[InstanceJob]] = []
    after: int | None = 0
    while after is not None:
        page = await ActivityEnvironment().run(reconcile.find_stuck, SweepPage(after=after, size=2))
        pages.append(page.jobs)
        after = page.last_id
    assert pages == [[ended[0], stuck[0]], [stuck[1]], [stuck[2]], []]


async def test_pass_goes_on_after_the_last_job_when_it_has_searched_a_page(
    instances: InstanceStore, job_store: JobStore, server: Server, job: InstanceJob, name: str
) -> None:
    other = (await instances.reserve(f"{name} too", Template.MINIMAL)).job
    assert (await job_store.begin(other)).held
    unused = cast("Any", None)
    is_at_work = AsyncMock(side_effect=lambda found: found == job)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, is_at_work, unused, unused, unused, unused, unused
    )
    page = await ActivityEnvironment().run(reconcile.find_stuck, SweepPage(after=0, size=2))
    assert page == StuckPage([other], other.instance_id)
    rest = await ActivityEnvironment().run(reconcile.find_stuck, SweepPage(after=other.instance_id, size=2))
    assert rest == StuckPage([], None)


async def test_delete_is_not_tried_again_when_it_was_cancelled_while_the_page_was_searched(
    instances: InstanceStore, job_store: JobStore, server: Server, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    deletion = (await instances.request_delete(created.instance_id, Delete(Way.DROP))).job
    assert (await job_store.begin(deletion)).held

    async def is_at_work(found: InstanceJob) -> bool:
        """As of a workflow that has recorded the cancellation, and then closed."""
        assert await job_store.fail(found, "The job was cancelled.")
        return False

    unused = cast("Any", None)
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, is_at_work, unused, unused, unused, unused, unused
    )
    page = await ActivityEnvironment().run(reconcile.find_stuck, SweepPage(after=0, size=2))
    assert page == StuckPage([], deletion.instance_id)
    assert await job_store.holds(deletion, InstanceStatus.DELETE_FAILED)


async def test_what_loads_have_left_is_removed_when_the_first_page_of_leftovers_is_searched(
    job_store: JobStore, server: Server
) -> None:
    unused, remove = cast("Any", None), AsyncMock()
    reconcile = ReconcileActivities(
        AsyncMock(), job_store, server, unused, unused, unused, remove, unused, unused, unused
    )
    for after, times in ((None, 1), (0, 1), (17, 1)):
        await ActivityEnvironment().run(reconcile.find_leftovers, after)
        assert remove.await_count == times


async def test_database_is_dropped_when_its_drop_was_interrupted(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await job_store.fail(renaming, "gave up")
    deletion = (await instances.request_delete(renaming.instance_id, Delete(Way.DROP))).job
    await job_store.begin(deletion)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", deletion.database)
    await ActivityEnvironment().run(activities(job_store).drop, deletion)
    assert await _names(admin, deletion) == set()


async def test_client_reads_of_the_half_dropped_database_when_the_purge_was_cancelled_after_its_worker_died(
    activities: Activities,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    renaming: InstanceJob,
    admin: asyncpg.Connection,
) -> None:
    await job_store.fail(renaming, "gave up")
    await ActivityEnvironment().run(activities(job_store).compensate, renaming)
    deletion = (await instances.request_delete(renaming.instance_id)).job
    await job_store.begin(deletion)
    assert (await ActivityEnvironment().run(activities(job_store).trash, deletion)).is_recorded
    purge = (await instances.request_purge(renaming.instance_id)).job
    await job_store.begin(purge)
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", purge.trash_database)
    assert await job_store.fail(purge, "The job was cancelled.", cancelled=True)

    await ActivityEnvironment().run(activities(job_store).compensate, purge)

    job, instance = await queries.job(purge.job_id), await queries.any_instance(purge.instance_id)
    assert job is not None
    assert instance is not None
    for told in (job.error_message, instance.error_message):
        assert f"'{purge.trash_database}' was half dropped: it cannot come back" in str(told)
    await admin.execute(f'DROP DATABASE "{purge.trash_database}"')


async def test_job_fails_with_the_setting_when_its_template_is_no_longer_among_the_settings(
    activities: Activities, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = (await instances.reserve(name, "Year2027")).job
    await job_store.begin(job)
    with pytest.raises(ApplicationError, match="Add it to ODS_TEMPLATES") as caught:
        await ActivityEnvironment().run(activities(job_store).provision, job)
    assert caught.value.non_retryable


async def test_database_is_a_copy_of_a_further_template_when_its_job_names_one(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
) -> None:
    further = tenant.settings.model_copy(update={"templates": {"Year2027": SAMPLE_TEMPLATE}})
    job = (await instances.reserve(name, "Year2027")).job
    await job_store.begin(job)
    activities = DatabaseActivities(replace(tenant, settings=further), ConcurrencyLimit(1))
    await ActivityEnvironment().run(activities.provision, job)
    async with session(postgres.dsn(job.database)) as database:
        assert await database.fetchval("SELECT count(*) FROM edfi.student")
    await admin.execute(f'DROP DATABASE "{job.database}"')


async def due_version(
    works: DatabaseActivities, tenant: Tenant, registry_dsn: str, job: InstanceJob
) -> VersionPurge:
    """What a reset has replaced of the instance of `job`, claimed since its time is over."""
    run = ActivityEnvironment().run
    assert (await run(works.provision, job)).is_recorded
    reset = (await tenant.instances.request_reset(job.instance_id)).job
    assert (await tenant.jobs.begin(reset)).held
    assert (await run(works.reset, reset)).is_recorded
    async with session(registry_dsn) as rows:
        await rows.execute(
            "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
        )
    (purge,) = [one for one in await tenant.versions.claim_due(20) if one.instance_id == job.instance_id]
    return purge


async def test_version_is_forgotten_when_an_earlier_try_has_dropped_it_and_was_not_recorded(
    activities: Activities,
    tenant: Tenant,
    admin: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
) -> None:
    """The instance has another database in use by then."""
    purge = await due_version(activities(tenant.jobs), tenant, registry_dsn, job)
    await admin.execute(f'DROP DATABASE "{purge.database}"')
    try:
        await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).purge_version, purge)
        assert await tenant.versions.instance_of(purge) is None
        assert await row_of(admin, job.database) is not None
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        pytest.param(
            'ALTER DATABASE "{}" ALLOW_CONNECTIONS false',
            'ALTER DATABASE "{}" ALLOW_CONNECTIONS true',
            id="it is closed",
        ),
        pytest.param(
            "UPDATE adminapi.databaserevisions AS its SET state = 'void' FROM adminapi.dbinstances AS of"
            " WHERE its.databaseid = of.databaseid AND of.databasename = '{}'",
            "UPDATE adminapi.databaserevisions AS its SET state = 'confirmed' FROM adminapi.dbinstances AS of"
            " WHERE its.databaseid = of.databaseid AND of.databasename = '{}'",
            id="the server was put back",
        ),
        pytest.param(
            'CREATE DATABASE "{}_copy"',
            'DROP DATABASE "{}_copy"',
            id="another one has its mark",
        ),
    ],
)
async def test_version_stays_while_the_own_database_does_not_agree(
    activities: Activities,
    tenant: Tenant,
    admin: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
    postgres: EmbeddedPostgres,
    spoil: str,
    mend: str,
) -> None:
    purge = await due_version(activities(tenant.jobs), tenant, registry_dsn, job)
    run, versions = ActivityEnvironment().run, DatabaseActivities(tenant, ConcurrencyLimit(1))
    async with session(registry_dsn if spoil.startswith("UPDATE") else postgres.dsn()) as place:
        await place.execute(spoil.format(job.database))
        if spoil.startswith("CREATE"):
            row = await row_of(admin, job.database)
            assert row is not None
            await admin.execute(f"COMMENT ON DATABASE \"{job.database}_copy\" IS '{row['comment']}'")
        with pytest.raises(ApplicationError, match="not as the registry knows it"):
            await run(versions.purge_version, purge)
        assert await row_of(admin, purge.database) is not None
        await place.execute(mend.format(job.database))
    await run(versions.purge_version, purge)
    assert await row_of(admin, purge.database) is None
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


async def test_version_stays_when_the_own_database_is_not_where_the_registry_has_it(
    activities: Activities, tenant: Tenant, admin: asyncpg.Connection, registry_dsn: str, job: InstanceJob
) -> None:
    """What has its mark may be a copy of an old dump."""
    purge = await due_version(activities(tenant.jobs), tenant, registry_dsn, job)
    run = ActivityEnvironment().run
    versions, aside = DatabaseActivities(tenant, ConcurrencyLimit(1)), f"{job.database}_check"
    await admin.execute(f'ALTER DATABASE "{job.database}" RENAME TO "{aside}"')
    with pytest.raises(ApplicationError, match="not as the registry knows it"):
        await run(versions.purge_version, purge)
    assert await row_of(admin, purge.database) is not None
    await admin.execute(f'ALTER DATABASE "{aside}" RENAME TO "{job.database}"')
    await run(versions.purge_version, purge)
    assert await row_of(admin, purge.database) is None
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


async def test_delete_has_failed_when_the_reset_that_it_has_overtaken_had_exchanged_the_databases(
    activities: Activities, tenant: Tenant, admin: asyncpg.Connection, registry_dsn: str, job: InstanceJob
) -> None:
    run, works = ActivityEnvironment().run, activities(tenant.jobs)
    assert (await run(works.provision, job)).is_recorded
    reset = (await tenant.instances.request_reset(job.instance_id)).job
    assert (await tenant.jobs.begin(reset)).held
    async with session(registry_dsn) as rows:
        before = await rows.fetchrow(
            "SELECT * FROM adminapi.managed_instances WHERE id = $1", job.instance_id
        )
        assert before is not None
        assert (await run(works.reset, reset)).is_recorded
        await rows.execute(
            "DELETE FROM adminapi.databases WHERE reason IS NULL;"
            " UPDATE adminapi.databases SET reason = NULL, trashedat = NULL, purgeafter = NULL"
        )
        await rows.execute(
            "UPDATE adminapi.managed_instances SET state = 'Error', databaseid = $2, replacement = $3"
            " WHERE id = $1",
            *(job.instance_id, before["databaseid"], before["replacement"]),
        )
        await rows.execute(
            "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", job.instance_id
        )
    await tenant.jobs.follow_admin_api()
    (delete,) = [one for one in await tenant.jobs.waiting_jobs(0, 100) if one.instance_id == job.instance_id]
    assert (await tenant.jobs.begin(delete)).held
    assert await tenant.jobs.fail(delete, "Another database has its name.")
    assert not await run(works.compensate, delete)
    row = await tenant.queries.instance(job.instance_id)
    assert row is not None
    assert reset.replacement is not None
    assert (row.status, str(row.database_id)) == ("Delete_Failed", reset.replacement.database_id)
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


async def test_database_can_come_back_when_the_registry_was_restored_to_before_its_create_had_ended(
    activities: Activities,
    tenant: Tenant,
    admin: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
) -> None:
    """It is closed by the operator, so that the create fails now, and a client deletes the instance."""
    run, works = ActivityEnvironment().run, activities(tenant.jobs)
    assert (await run(works.provision, job)).is_recorded
    async with session(registry_dsn) as rows:
        await rows.execute(
            "DELETE FROM dbo.odsinstances;"
            " UPDATE adminapi.managed_instances SET state = 'InProgress';"
            " UPDATE adminapi.databases SET publishedat = NULL;"
            " UPDATE adminapi.jobstatuses SET status = 'InProgress'"
        )
    await admin.execute(f'ALTER DATABASE "{job.database}" ALLOW_CONNECTIONS false')
    again = await tenant.jobs.release(job)
    assert again is not None
    assert (await tenant.jobs.begin(again)).held
    with pytest.raises(ApplicationError, match="accepts no connections"):
        await run(works.provision, again)
    assert await tenant.jobs.fail(again, "It accepts no connections.")
    await run(works.compensate, again)

    delete = (await tenant.instances.request_delete(job.instance_id)).job
    assert (await tenant.jobs.begin(delete)).held
    assert (await run(works.trash, delete)).had_database is not False
    undelete = (await tenant.instances.request_undelete(job.instance_id)).job
    assert (await tenant.jobs.begin(undelete)).held
    await run(works.undelete, undelete)
    assert await tenant.jobs.finish_undelete(undelete, "iv|ciphertext|hmac")
    try:
        assert await row_of(admin, job.database) is not None
        assert (await tenant.queries.instance(job.instance_id)).database.published_at is not None
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


async def test_instance_can_be_purged_when_a_failed_undelete_has_left_its_database_half_dropped(
    activities: Activities, tenant: Tenant, admin: asyncpg.Connection, job: InstanceJob
) -> None:
    run, works = ActivityEnvironment().run, activities(tenant.jobs)
    assert (await run(works.provision, job)).is_recorded
    delete = (await tenant.instances.request_delete(job.instance_id)).job
    assert (await tenant.jobs.begin(delete)).held
    assert (await run(works.trash, delete)).had_database is not False
    undelete = (await tenant.instances.request_undelete(job.instance_id)).job
    assert (await tenant.jobs.begin(undelete)).held
    await run(works.undelete, undelete)
    assert await tenant.jobs.fail(undelete, "A context is another instance's.")
    await admin.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", job.database)
    try:
        await run(works.compensate, undelete)
        row = await tenant.queries.any_instance(job.instance_id)
        assert row is not None
        assert (row.is_in_trash, row.undo_due) == (True, False)
        purge = (await tenant.instances.request_purge(job.instance_id)).job
        assert (await tenant.jobs.begin(purge)).held
        assert (await run(works.purge, purge)).is_recorded
    finally:
        await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


IN_DOUBT = pytest.mark.parametrize(
    "doubt",
    ["timeline = 15", "passat = passat - interval '3 days'"],
    ids=["its server was promoted", "no pass has run for days"],
)


@IN_DOUBT
async def test_version_stays_when_the_registry_may_have_been_restored_since_the_last_pass(
    activities: Activities,
    tenant: Tenant,
    admin: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
    doubt: str,
) -> None:
    await tenant.begin_pass()
    purge = await due_version(activities(tenant.jobs), tenant, registry_dsn, job)
    async with session(registry_dsn) as rows:
        await rows.execute(f"UPDATE adminapi.installation SET {doubt}")  # noqa: S608 - a constant
        run, versions = ActivityEnvironment().run, DatabaseActivities(tenant, ConcurrencyLimit(1))
        await run(versions.purge_version, purge)
        await run(versions.purge_version, purge)  # as Temporal tries again
        assert await row_of(admin, purge.database) is not None
        await rows.execute("UPDATE adminapi.databases SET purgingsince = now() WHERE reason = 'replaced'")
        await run(versions.purge_version, purge)
        assert await row_of(admin, purge.database) is None
        await rows.execute(NO_PASSES)
    await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')


@IN_DOUBT
@pytest.mark.parametrize(("way", "is_called_off"), [(Way.DROP, True), (None, False)], ids=["drop", "trash"])
async def test_running_drop_is_called_off_when_the_registry_may_have_been_restored(
    activities: Activities,
    tenant: Tenant,
    admin: asyncpg.Connection,
    registry_dsn: str,
    job: InstanceJob,
    doubt: str,
    way: Way | None,
    is_called_off: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The registry may not know any more that its client has cancelled it."""
    await tenant.begin_pass()
    works, run = activities(tenant.jobs), ActivityEnvironment().run
    assert (await run(works.provision, job)).is_recorded
    delete = (await tenant.instances.request_delete(job.instance_id, Delete(way))).job
    assert (await tenant.jobs.begin(delete)).held
    async with session(registry_dsn) as rows:
        await rows.execute(f"UPDATE adminapi.installation SET {doubt}")  # noqa: S608 - a constant
    if is_called_off:
        with pytest.raises(ApplicationError) as raised:
            await run(works.drop, delete)
        assert raised.value.type == "Superseded"
        row = await tenant.queries.job(delete.job_id)
        assert row is not None
        assert (row.status, row.error_message) == (JobStatus.ERROR, CANCELLED_IN_DOUBT)
        assert await row_of(admin, job.database) is not None
        await admin.execute(f'DROP DATABASE "{job.database}" WITH (FORCE)')
    else:
        assert (await run(works.trash, delete)).had_database is not False
        await admin.execute(f'DROP DATABASE "{delete.trash_database}"')
    async with session(registry_dsn) as rows:
        await rows.execute(NO_PASSES)
