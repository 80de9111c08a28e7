"""`ods recover` cancels the jobs that would drop a database, and no others."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.registry.backups.expiry import BackupExpiry
from ods.registry.instances.cancelling import CANCELLED_IN_DOUBT, JobCancellations
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.settings.settings import VerifyPolicy
from ods.tenants.tenant import Tenant
from tests import preloaded
from tests.api.server import environment
from tests.postgres.instance_states import bring_to, stores
from tests.postgres.postgres_inspection import until
from tests.postgres.test_scheduled_backups import KEPT, MONDAY, TUESDAY, expires, made, made_at
from tests.servers import make_settings, session

DROP = Delete(Way.DROP)
BACKED_UP = Delete(Way.DROP, final_backup=True)
NO_TRASH = timedelta()
WAITING_FOR_LOCK = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%timeline%'"
NO_PASSES = "UPDATE adminapi.installation SET passat = NULL, gapfrom = NULL, gapto = NULL, timeline = NULL"


@pytest.fixture
def cancellations(tenant: Tenant) -> JobCancellations:
    return tenant.cancellations


@pytest.mark.parametrize("begun", [False, True], ids=["waits", "runs"])
@pytest.mark.parametrize("delete", [DROP, BACKED_UP], ids=["drop", "backed up"])
@pytest.mark.parametrize("state", ["Completed", "Deleted"])
async def test_delete_that_would_drop_a_database_does_not_begin_once_it_is_cancelled(
    instances: InstanceStore,
    job_store: JobStore,
    cancellations: JobCancellations,
    queries: InstanceQueries,
    name: str,
    state: str,
    delete: Delete,
    begun: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    number = (await bring_to(instances, job_store, state, name)).instance_id
    job = (await instances.request_delete(number, delete)).job
    if begun:
        assert (await job_store.begin(job)).held
    cancelled = [one.job_id for one in await cancellations.hold_drops()]
    assert cancelled == [job.job_id]
    assert await cancellations.hold_drops() == []
    row = await queries.any_instance(number)
    assert row is not None
    # What has begun has ended the routing, and is to be retried.
    to_be_retried = begun and state == "Completed"
    assert row.status == (InstanceStatus.DELETE_FAILED if to_be_retried else state)
    ended = await queries.job(job.job_id)
    assert ended is not None
    assert (ended.status, ended.error_message) == (JobStatus.ERROR, CANCELLED_IN_DOUBT)
    for attempt in (job.attempt, job.attempt + 1):
        assert not (await job_store.begin(replace(job, attempt=attempt))).held
    again = (await instances.request_delete(number, delete)).job
    assert (await job_store.begin(again)).held


@pytest.mark.parametrize("kept", [True, False])
async def test_reset_is_cancelled_also_if_what_it_replaces_is_kept_for_a_while(
    engine: AsyncEngine,
    cancellations: JobCancellations,
    name: str,
    kept: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    instances, job_store = stores(engine, trash=timedelta(days=7) if kept else NO_TRASH)
    number = (await bring_to(instances, job_store, "Completed", name)).instance_id
    job = (await instances.request_reset(number)).job
    cancelled = [one.job_id for one in await cancellations.hold_drops()]
    assert cancelled == [job.job_id]
    assert not (await job_store.begin(job)).held


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Pending_Delete", "Pending_Rename", "Completed"])
async def test_job_that_drops_nothing_for_good_goes_on(
    instances: InstanceStore,
    job_store: JobStore,
    cancellations: JobCancellations,
    queries: InstanceQueries,
    name: str,
    state: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    before = await queries.any_instance(job.instance_id)
    assert await cancellations.hold_drops() == []
    after = await queries.any_instance(job.instance_id)
    assert before is not None
    assert after is not None
    assert (after.status, after.attempt) == (before.status, before.attempt)


@pytest.mark.parametrize(
    ("doubt", "days"),
    [("passat = passat - interval '25 hours'", 1), ("timeline = 15", 7)],
    ids=["no pass for a day", "another timeline"],
)
async def test_pass_begins_with_calling_off_drops_when_the_registry_may_have_been_restored(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    name: str,
    doubt: str,
    days: int,
) -> None:
    kept = await bring_to(instances, job_store, "Deleted", f"{name} kept")
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() + interval '1 day' WHERE instanceid = $1",
        kept.instance_id,
    )
    number = (await bring_to(instances, job_store, "Completed", name)).instance_id
    job = (await instances.request_delete(number, DROP)).job
    failed = (await bring_to(instances, job_store, "Completed", f"{name} failed")).instance_id
    tried_again = (await instances.request_delete(failed, DROP)).job
    assert (await job_store.begin(tried_again)).held
    assert await job_store.fail(tried_again, "The server was away.", outage=True)
    try:
        for _ in range(2):
            await tenant.begin_pass()
            assert await job_store.is_due(job)
            assert [one.job_id for one in await job_store.unfinished_deletes({})] == [tried_again.job_id]
        await rows.execute(f"UPDATE adminapi.installation SET helduntil = NULL, {doubt}")  # noqa: S608 - a constant
        await tenant.begin_pass()
        assert not await job_store.is_due(job)
        assert await job_store.unfinished_deletes({}) == []
        again = (await instances.request_delete(number, DROP)).job
        await tenant.begin_pass()
        assert await job_store.is_due(again)
        left: timedelta = await rows.fetchval(
            "SELECT purgeafter - now() AT TIME ZONE 'utc' FROM adminapi.databases WHERE instanceid = $1",
            kept.instance_id,
        )
        assert round(left / timedelta(days=1)) == days
        held: timedelta | None = await rows.fetchval(
            "SELECT helduntil - now() AT TIME ZONE 'utc' FROM adminapi.installation"
        )
        assert (held and round(held / timedelta(days=1))) == (days if days == KEPT_IN_DOUBT.days else None)
    finally:
        await rows.execute(NO_PASSES)


async def test_request_after_a_pass_is_not_called_off_by_another_that_began_with_it(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    registry_dsn: str,
    name: str,
) -> None:
    """Several workers start together: the second one waits, and has nothing to call off then."""
    await tenant.begin_pass()
    number = (await bring_to(instances, job_store, "Completed", name)).instance_id
    await rows.execute("UPDATE adminapi.installation SET timeline = 15")
    async with session(registry_dsn) as first, first.transaction():
        await first.execute("UPDATE adminapi.installation SET timeline = timeline")
        second = asyncio.create_task(tenant.begin_pass())
        await until(partial(rows.fetchval, WAITING_FOR_LOCK))
        await first.execute("UPDATE adminapi.installation SET timeline = 1, passat = timezone('utc', now())")
        job = (await instances.request_delete(number, DROP)).job
    await second
    assert await job_store.is_due(job)


async def test_what_a_delete_is_about_to_put_into_the_trash_stays_for_a_week(
    engine: AsyncEngine,
    instances: InstanceStore,
    job_store: JobStore,
    cancellations: JobCancellations,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """Its client may have cancelled it after the registry was saved."""
    job = await bring_to(instances, job_store, "Completed", name)
    trash = (await instances.request_delete(job.instance_id, Delete())).job
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() WHERE instanceid = $1",
        job.instance_id,
    )
    assert await cancellations.hold_drops() == []
    _, brief = stores(engine, trash=timedelta(days=1))
    assert (await brief.begin(trash)).held
    assert await brief.finish_delete(trash)
    kept: timedelta = await rows.fetchval(
        "SELECT purgeafter - now() AT TIME ZONE 'utc' FROM adminapi.databases WHERE instanceid = $1",
        job.instance_id,
    )
    assert round(kept / timedelta(days=1)) == 7


async def test_nothing_is_dropped_from_the_trash_for_a_week(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    cancellations: JobCancellations,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    reset = (await instances.request_reset(job.instance_id)).job
    assert (await job_store.begin(reset)).held
    assert await job_store.finish_replacement(reset)
    for other, delete in ((name, Delete()), (f"{name} B", BACKED_UP)):
        if other != name:
            job = await bring_to(instances, job_store, "Completed", other)
        trash = (await instances.request_delete(job.instance_id, delete)).job
        assert (await job_store.begin(trash)).held
        assert await job_store.finish_delete(trash)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE purgeafter IS NOT NULL"
    )
    await rows.execute("UPDATE adminapi.databases SET purgingsince = now() WHERE reason = 'replaced'")
    assert await instances.is_purge_due()
    assert await cancellations.hold_drops() == []
    assert not await instances.is_purge_due()
    assert not await tenant.versions.is_purge_due()
    assert await instances.request_purge_after(trash) is None
    kept = await rows.fetch(
        "SELECT purgeafter - now() AT TIME ZONE 'utc' AS for"
        " FROM adminapi.databases JOIN adminapi.dbinstances AS its ON its.id = instanceid"
        " WHERE starts_with(name, $1) AND purgeafter IS NOT NULL",
        name,
    )
    assert [round(row["for"] / timedelta(days=1)) for row in kept] == [7, 7]
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")


async def test_last_scheduled_backup_stays_as_if_its_instance_was_found_unchanged(
    tenant: Tenant, cancellations: JobCancellations, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(tenant.instances, tenant.jobs, "Completed", name)
    earlier, last = [await made(tenant, job, at) for at in (MONDAY, TUESDAY)]
    assert await cancellations.hold_drops() == []
    expiry = BackupExpiry(tenant.engine, tenant.instances.installation, KEPT, VerifyPolicy.WEEKLY)
    await expiry.compute()
    assert await expires(tenant, last) is None
    assert await expires(tenant, earlier) is not None
    # The next one is the first of its day all the same.
    day = timedelta(days=1)
    at = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0, tzinfo=None) + day
    later = await made_at(tenant, rows, job, at)
    await expiry.compute()
    midnight = at.replace(hour=0)
    assert [await expires(tenant, one) for one in (last, later)] == [midnight + 2 * day] * 2
    await rows.execute("DELETE FROM adminapi.backups")


@pytest.mark.parametrize("number", [0, 1])
async def test_delete_of_another_product_goes_on(
    instances: InstanceStore,
    job_store: JobStore,
    cancellations: JobCancellations,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    number: int,
) -> None:
    """Of its own row, and of one of ours, of which the sweep has made no job yet."""
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE id = $1", job.instance_id
    )
    if number == 0:
        await rows.execute("UPDATE adminapi.dbinstances SET jobnumber = 0 WHERE id = $1", job.instance_id)
    before = await queries.any_instance(job.instance_id)
    assert await cancellations.hold_drops() == []
    after = await queries.any_instance(job.instance_id)
    assert before is not None
    assert after is not None
    assert (after.status, after.attempt) == (before.status, before.attempt) == ("Pending_Delete", 0)


async def test_operator_is_told_which_jobs_are_cancelled_when_the_registry_is_confirmed(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    registry_dsn: str,
    name: str,
) -> None:
    """What is requested again afterwards is not cancelled once more when the workers are started."""
    await tenant.begin_pass()
    await rows.execute("UPDATE adminapi.installation SET timeline = 15, passat = now() - interval '3 days'")
    number = (await bring_to(instances, job_store, "Completed", name)).instance_id
    job = (await instances.request_delete(number, DROP)).job
    variables = environment(make_settings(postgres, registry_dsn))
    run = preloaded.run("ods.cli", "recover", "--apply", "--yes", "--confirm", env=variables)
    told = " ".join((run.stdout + run.stderr).split())
    assert f"Cancelled {job.job_id}, which would have dropped a database of '{name}'." in told
    assert "within seven days" in told
    assert not (await job_store.begin(job)).held
    again = (await instances.request_delete(number, DROP)).job
    await tenant.begin_pass()
    assert await job_store.is_due(again)
    await rows.execute(NO_PASSES)
