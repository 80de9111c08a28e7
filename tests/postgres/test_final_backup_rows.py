"""The rows of purges that make a backup first: which requests lead to one, and what is recorded of it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.statuses import StatusActivities
from ods.backups.manifest import BackupKind
from ods.model.arguments import DeleteArguments, Way
from ods.model.operations import InstanceStatus, JobStatus, Operation
from ods.registry.backups.records import proven_state
from ods.registry.backups.rows import FINAL
from ods.registry.backups.stored import LostBackup, StoredBackup
from ods.registry.installation import InstallationStore
from ods.registry.instances.adoptions import DatabaseName, ToldInstance
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import BackupRefusedError, InstanceNotFoundError, RefusedError
from ods.registry.storage.models import DbInstance
from ods.settings.settings import VerifyPolicy
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, POLICY, bring_to, stores

PURGE, FINAL_PURGE = Delete(Way.DROP), Delete(Way.DROP, final_backup=True)
TO_TRASH = Delete(Way.TRASH)
WEEK = timedelta(days=7)
Stores = Callable[[timedelta], tuple[InstanceStore, JobStore]]


@pytest.fixture
def always(engine: AsyncEngine) -> Stores:
    """Stores of an installation that always makes a backup, with a trash of so many days."""

    def stores(trash: timedelta) -> tuple[InstanceStore, JobStore]:
        factory = JobFactory(InstallationStore(engine), POLICY)
        return (
            InstanceStore(engine, factory, trash, final_backup=True),
            JobStore(engine, factory, trash, final_backup=True),
        )

    return stores


@pytest.fixture
async def trashed(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The delete of an instance in the trash."""
    return await bring_to(instances, job_store, "Deleted", name)


@pytest.fixture
async def purge(instances: InstanceStore, job_store: JobStore, trashed: InstanceJob) -> InstanceJob:
    """A purge that has begun."""
    requested = (await instances.request_purge(trashed.instance_id, final_backup=True)).job
    assert (await job_store.begin(requested)).held
    return requested


def stored() -> StoredBackup:
    at = datetime(2027, 1, 1, tzinfo=UTC)
    return StoredBackup(
        *(str(uuid4()), "file:///srv", 10, 20, "0" * 64, "1" * 64, "18.6"),
        encrypted=False,
        taken_at=at,
        finished_at=at,
    )


async def row_of(queries: InstanceQueries, job: InstanceJob) -> DbInstance:
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    return row


def test_kind_of_a_final_backup_is_that_of_its_manifest() -> None:
    assert BackupKind.FINAL == FINAL


async def test_no_purge_follows_when_the_delete_before_it_was_cancelled_a_moment_too_late(
    instances: InstanceStore, job_store: JobStore, tenant: Tenant, queries: InstanceQueries, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    assert (await job_store.begin(job)).held
    assert await tenant.cancellations.record(job)
    assert await job_store.finish_delete(job)
    assert await instances.request_purge_after(job) is None
    assert not await instances.is_purge_due()
    row = await row_of(queries, job)
    assert (row.is_in_trash, row.backup_first, row.database.purge_after) == (True, False, None)


@pytest.mark.parametrize("backup_first", [True, False])
async def test_job_of_a_purge_is_void_when_its_row_says_otherwise_about_the_backup(
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
    *,
    backup_first: bool,
) -> None:
    """As when the row was changed by hand; a worker that is told to drop at once must not go on."""

    async def change() -> None:
        changed = (
            "UPDATE adminapi.dbinstances SET arguments = jsonb_build_object("
            "'backup_first', NOT (arguments -> 'backup_first')::boolean) WHERE id = $1"
        )
        await rows.execute(changed, trashed.instance_id)

    purge = (await instances.request_purge(trashed.instance_id, final_backup=backup_first)).job
    await change()
    assert not await job_store.is_due(purge)
    assert not (await job_store.begin(purge)).held
    (changed,) = await job_store.waiting_jobs(0, 10)
    assert changed.backup_first is not backup_first
    assert (await job_store.begin(changed)).held
    await change()
    assert await job_store.position(changed) is None
    assert not await job_store.record_final_backup(changed, stored(), "state")
    assert not await job_store.finish_purge(changed)
    assert not await job_store.fail(changed, "no")


async def test_row_of_a_purge_says_whether_it_makes_a_backup_first(
    purge: InstanceJob, rows: asyncpg.Connection
) -> None:
    for arguments in ("{}", '{"backup_first": null}', '{"backup_first": true, "keep": true}'):
        with pytest.raises(asyncpg.CheckViolationError, match="ck_dbinstances_arguments"):
            await rows.execute(
                "UPDATE adminapi.dbinstances SET arguments = $2 WHERE id = $1", purge.instance_id, arguments
            )


async def test_failed_purge_makes_a_backup_first_when_it_is_retried_after_a_confirm(
    tenant: Tenant, job_store: JobStore, instances: InstanceStore, purge: InstanceJob
) -> None:
    assert await job_store.fail(purge, "The store is away.")
    await tenant.cancellations.hold_drops()
    retry = (await instances.request_retry(purge.instance_id)).job
    assert (retry.backup_first, retry.makes_backup) == (True, purge.makes_backup)


async def test_backup_is_made_first_when_an_admin_api_takes_its_delete_after_a_failed_one_back(
    engine: AsyncEngine, rows: asyncpg.Connection, name: str
) -> None:
    """Its words count again once a sweep has decided what becomes of the database."""
    instances, job_store = stores(engine)
    live = await bring_to(instances, job_store, "Completed", name)
    failed = (await instances.request_delete(live.instance_id, FINAL_PURGE)).job
    assert (await job_store.begin(failed)).held
    assert await job_store.fail(failed, "The server is away.")
    for word in ("PendingDelete", "Created", "PendingDelete"):
        await rows.execute(
            "UPDATE adminapi.dbinstances SET status = $2 WHERE id = $1", live.instance_id, word
        )
    await job_store.follow_admin_api()
    (due,) = await job_store.waiting_jobs(0, 10)
    assert (due.rules.name, due.backup_first) == ("Trash", True)


async def test_delete_that_is_not_decided_does_not_begin_even_when_it_is_recorded(
    engine: AsyncEngine, rows: asyncpg.Connection, name: str
) -> None:
    instances, job_store = stores(engine)
    live = await bring_to(instances, job_store, "Completed", name)
    delete = (await instances.request_delete(live.instance_id, PURGE)).job
    await rows.execute(
        'UPDATE adminapi.dbinstances SET arguments = \'{"keep": false, "backup_first": true}\' WHERE id = $1',
        live.instance_id,
    )
    row = await rows.fetchrow("SELECT request FROM adminapi.dbinstances WHERE id = $1", live.instance_id)
    assert row is not None
    its = replace(
        delete, arguments=DeleteArguments(keep=False, backup_first=True), request=str(row["request"])
    )
    assert not (await job_store.begin(its)).held
    await job_store.follow_admin_api()
    (due,) = await job_store.waiting_jobs(0, 10)
    assert (due.rules.name, due.backup_first) == ("Trash", True)
    assert (await job_store.begin(due)).held


async def test_live_instance_goes_to_the_trash_first_when_it_is_backed_up_and_purged(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    assert (job.rules.name, job.backup_first, job.makes_backup) == ("Trash", True, None)
    assert (await job_store.begin(job)).held
    assert await instances.request_purge_after(job) is None, "it is not in the trash yet"
    assert await job_store.finish_delete(job)
    assert await instances.is_purge_due()
    purge = await instances.request_purge_after(job)
    assert purge is not None
    assert (purge.operation, purge.backup_first, purge.number) == (Operation.PURGE, True, job.number + 1)
    assert await instances.request_purge_after(job) == purge, "as when the answer was lost"
    row = await row_of(queries, job)
    assert (row.status, row.is_in_trash, row.backup_first) == ("Pending_Delete", True, True)
    assert not row.is_live
    assert (await job_store.begin(purge)).held
    assert await instances.request_purge_after(job) is None
    assert await job_store.finish_purge(purge, dropped=True)
    assert not (await row_of(queries, job)).is_in_trash


async def moved_before_its_purge(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The delete that has moved an instance to the trash, and after which a purge with a backup follows."""
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    assert (await job_store.begin(job)).held
    assert await job_store.finish_delete(job)
    return job


async def test_instance_stays_in_the_trash_when_its_purge_was_called_off_in_temporal(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    job = await moved_before_its_purge(instances, job_store, name)
    purge = await instances.request_purge_after(job)
    assert purge is not None
    for _ in range(2):
        await ActivityEnvironment().run(StatusActivities(tenant).call_off_purge, purge)
    assert await instances.request_purge_after(job) is None
    assert not await instances.is_purge_due()
    assert (await row_of(queries, job)).is_in_trash
    again = (await instances.request_purge(job.instance_id)).job
    await ActivityEnvironment().run(StatusActivities(tenant).call_off_purge, purge)  # late
    assert (await job_store.begin(again)).held


async def test_no_purge_follows_a_delete_that_was_done_when_its_workflow_was_cancelled(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    """Its worker died before Temporal knew that it was done."""
    job = await moved_before_its_purge(instances, job_store, name)
    assert not await job_store.fail(job, "The job was cancelled.", cancelled=True)
    assert not await instances.is_purge_due()
    assert await instances.request_purge_after(job) is None
    assert (await row_of(queries, job)).is_in_trash


async def test_name_is_free_while_an_instance_is_backed_up_and_purged(
    instances: InstanceStore, job_store: JobStore, purge: InstanceJob
) -> None:
    other = await bring_to(instances, job_store, "Completed", purge.name)
    assert other.database == purge.database
    assert await job_store.finish_purge(purge)


@pytest.mark.parametrize("days", [0, 7])
async def test_every_way_to_drop_makes_a_backup_when_the_setting_says_so(
    always: Stores, rows: asyncpg.Connection, name: str, days: int
) -> None:
    instances, job_store = always(timedelta(days=days))
    live = await bring_to(instances, job_store, "Completed", f"{name} live")
    plain = (await instances.request_delete(live.instance_id)).job
    assert (plain.rules.name, plain.backup_first) == ("Trash", days == 0)
    other = await bring_to(instances, job_store, "Completed", f"{name} other")
    dropped = (await instances.request_delete(other.instance_id, PURGE)).job
    assert (dropped.rules.name, dropped.backup_first) == ("Trash", True)
    for job in (plain, dropped):
        await job_store.begin(job)
        await job_store.finish_delete(job)
    if days:
        purge = (await instances.request_purge(plain.instance_id)).job
        assert (purge.operation, purge.backup_first) == (Operation.PURGE, True)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) WHERE reason = 'deleted'"
    )
    due = await instances.request_due_purges(10, [])
    assert {(one.job.operation, one.job.backup_first) for one in due} == {(Operation.PURGE, True)}
    assert len(due) == (1 if days else 2)


async def test_nothing_is_backed_up_when_the_instance_never_had_a_database(always: Stores, name: str) -> None:
    instances, job_store = always(WEEK)
    job = await bring_to(instances, job_store, "Error", name)
    assert (await instances.request_delete(job.instance_id, FINAL_PURGE)).job.operation is Operation.DELETE


async def test_purge_does_not_follow_when_its_delete_was_cancelled_or_the_instance_undeleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    tenant: Tenant,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    first = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    waiting = await queries.job(first.job_id)
    assert waiting is not None
    assert await tenant.cancellations.cancel_waiting(waiting)
    row = await row_of(queries, first)
    assert (row.status, row.database.purge_after) == (InstanceStatus.COMPLETED, None)
    second = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    await job_store.begin(second)
    await job_store.finish_delete(second)
    undelete = (await instances.request_undelete(created.instance_id)).job
    assert await instances.request_purge_after(second) is None
    assert not await instances.is_purge_due()
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    third = (await instances.request_delete(created.instance_id)).job
    assert not third.backup_first
    await rows.execute("DELETE FROM adminapi.audit")


async def test_purge_does_not_follow_when_the_instance_is_protected_or_another_has_its_id(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    await job_store.begin(job)
    await job_store.finish_delete(job)
    other = replace(job, mark="11111111-52f4-4f3c-8a43-0e8d7f4f3f10")
    assert await instances.request_purge_after(other) is None
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    assert await instances.request_purge_after(job) is None
    assert not await instances.is_purge_due()


async def test_purge_follows_when_its_delete_had_to_be_retried(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    job = (await instances.request_delete(created.instance_id, FINAL_PURGE)).job
    await job_store.begin(job)
    await job_store.fail(job, "Sessions do not end.")
    retry = (await instances.request_retry(created.instance_id)).job
    assert retry.backup_first
    await job_store.begin(retry)
    await job_store.finish_delete(retry)
    assert await instances.request_purge_after(retry) is not None


async def test_purge_is_refused_when_it_is_not_in_the_trash_or_protected(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    protected = AttributeChanges(protected=True)
    live = await bring_to(instances, job_store, "Completed", f"{name} live")
    await instances.change_attributes(live.instance_id, protected)
    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: instances.request_purge(live.instance_id, final_backup=True),
        lambda: instances.request_delete(live.instance_id, FINAL_PURGE),
        lambda: instances.require_deletable(live.instance_id, FINAL_PURGE),
    ]
    for request in requests:
        with pytest.raises(RefusedError):
            await request()
    job = await bring_to(instances, job_store, "Deleted", name)
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    with pytest.raises(RefusedError, match="protected"):
        await instances.request_purge(job.instance_id, final_backup=True)
    with pytest.raises(InstanceNotFoundError):
        await instances.request_purge(987654, final_backup=True)


async def test_purge_can_be_requested_anew_when_it_was_cancelled_and_retried_or_undone_when_it_has_failed(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    tenant: Tenant,
    trashed: InstanceJob,
) -> None:
    purge = (await instances.request_purge(trashed.instance_id, final_backup=True)).job
    waiting = await queries.job(purge.job_id)
    assert waiting is not None
    assert await tenant.cancellations.cancel_waiting(waiting)
    row = await row_of(queries, purge)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETED, True)
    with pytest.raises(InstanceNotFoundError):  # one that was cancelled is requested anew
        await instances.request_retry(trashed.instance_id)
    again = (await instances.request_purge(trashed.instance_id, final_backup=True)).job
    assert again.makes_backup != purge.makes_backup
    await job_store.begin(again)
    await job_store.fail(again, "The store is full.")
    retry = (await instances.request_retry(trashed.instance_id)).job
    assert (retry.makes_backup, retry.attempt) == (again.makes_backup, 2)
    await job_store.begin(retry)
    await job_store.fail(retry, "The store is full.")
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert (await row_of(queries, trashed)).status == InstanceStatus.COMPLETED


async def test_purge_is_tried_again_by_the_pass_when_an_outage_or_an_interrupted_drop_ended_it(
    job_store: JobStore, purge: InstanceJob
) -> None:
    assert await job_store.unfinished_deletes({}) == []
    await job_store.fail(purge, "The store is away.", outage=True)
    assert await job_store.unfinished_deletes({}) == [purge]
    due = await job_store.release(purge)
    assert due is not None
    await job_store.begin(due)
    await job_store.fail(due, "Sessions do not end.")
    assert await job_store.unfinished_deletes({}) == []
    assert await job_store.unfinished_deletes({str(purge.trash_database): purge.mark}) == [due]


async def test_database_is_known_to_be_backed_up_when_what_is_stored_was_verified_and_only_then(
    job_store: JobStore, tenant: Tenant, purge: InstanceJob
) -> None:
    backups = tenant.backups

    async def state() -> str | None:
        backup = await backups.final_of(purge)
        assert backup is not None
        return proven_state(backup)

    assert await state() is None
    first = stored()
    assert await job_store.record_final_backup(purge, first, "16384 750")
    assert await state() is None
    assert await backups.waiting_verifications() == [], "its job verifies it"
    as_verified = await backups.final_of(purge)
    assert as_verified is not None
    await backups.finish_proof(as_verified, None)
    assert await state() == "16384 750"
    assert await job_store.record_final_backup(purge, stored(), "16384 760")
    assert await state() is None
    await backups.finish_proof(as_verified, None)  # of the one before, by a worker that is late
    assert await state() is None
    again = await backups.final_of(purge)
    assert again is not None
    await backups.finish_proof(again, "A table is missing.")
    assert await state() is None
    await backups.finish_proof(again, None)  # of one that was begun before that
    assert await state() is None
    again = await backups.final_of(purge)
    assert again is not None
    await backups.finish_proof(again, None)
    assert await state() == "16384 760"
    await backups.request_verification(again.id)
    assert await backups.begin_verification(again.id) is not None
    assert await state() == "16384 760"
    await backups.finish_verification(again.id, "It is damaged.")  # as a client has requested it
    assert await state() is None


async def test_verdict_of_another_verification_counts_when_the_purge_has_verified_the_backup_meanwhile(
    job_store: JobStore, tenant: Tenant, rows: asyncpg.Connection, purge: InstanceJob
) -> None:
    """As one that a client has requested, or that the pass had begun before the purge was retried."""
    assert await job_store.record_final_backup(purge, stored(), "16384 750")
    as_verified = await tenant.backups.final_of(purge)
    assert as_verified is not None
    assert await tenant.backups.begin_verification(as_verified.id) is not None
    await tenant.backups.finish_proof(as_verified, None)
    proven = await tenant.backups.final_of(purge)
    assert proven is not None
    assert (proven.verification, proven_state(proven)) == ("InProgress", "16384 750")
    await tenant.backups.finish_verification(as_verified.id, "It is damaged.")
    damaged = await tenant.backups.final_of(purge)
    assert damaged is not None
    assert proven_state(damaged) is None
    await rows.execute("DELETE FROM adminapi.backups")


async def test_backup_is_not_recorded_when_the_purge_has_moved_on_or_the_backup_is_deleted(
    job_store: JobStore, tenant: Tenant, rows: asyncpg.Connection, purge: InstanceJob
) -> None:
    late = replace(purge, attempt=purge.attempt + 1)
    assert not await job_store.record_final_backup(late, stored(), "state")
    other = replace(purge, request=str(uuid4()))
    assert not await job_store.record_final_backup(other, stored(), "state")
    assert await job_store.record_final_backup(purge, stored(), "state")
    with pytest.raises(BackupRefusedError, match="about to be dropped"):
        await tenant.backups.mark_deleted(UUID(purge.makes_backup))
    await job_store.fail(purge, "Sessions do not end.")
    await tenant.backups.mark_deleted(UUID(purge.makes_backup))
    assert await tenant.backups.final_of(purge) is None
    assert not await job_store.record_final_backup(purge, stored(), "state")
    await rows.execute("DELETE FROM adminapi.backups")


async def test_backup_is_no_backup_when_the_purge_has_found_no_database(
    job_store: JobStore, tenant: Tenant, purge: InstanceJob
) -> None:
    assert await job_store.finish_purge(purge, dropped=False)
    state = await tenant.backups.get(UUID(purge.makes_backup))
    assert (state.status, state.error) == (
        "Error",
        "There was no database any more that could be backed up.",
    )


async def test_waiting_verification_is_the_pass_s_when_the_purge_has_ended(
    job_store: JobStore, tenant: Tenant, rows: asyncpg.Connection, purge: InstanceJob
) -> None:
    assert await job_store.record_final_backup(purge, stored(), "state")
    await job_store.fail(purge, "The job was cancelled.")
    (waiting,) = await tenant.backups.waiting_verifications()
    assert str(waiting.id) == purge.makes_backup
    await rows.execute("DELETE FROM adminapi.backups")


async def test_stored_backup_is_recorded_when_the_job_that_has_stored_it_has_failed_and_only_then(
    job_store: JobStore, tenant: Tenant, purge: InstanceJob
) -> None:
    """What another try has stored is a backup of its own: it may be all that is left of the database."""
    lost = LostBackup(
        UUID(purge.makes_backup),
        purge.ods_instance_id or 0,
        UUID(purge.mark),
        "An instance",
        FINAL,
        None,
        {},
        UUID(purge.installation),
        stored(),
    )
    assert not await tenant.backups.record_lost(lost, VerifyPolicy.NEVER)
    await job_store.fail(purge, "The worker was cut off.")
    assert not await tenant.backups.record_lost(replace(lost, installation=uuid4()), VerifyPolicy.NEVER)
    assert not await tenant.backups.record_lost(replace(lost, mark=uuid4()), VerifyPolicy.NEVER)
    assert await tenant.backups.record_lost(lost, VerifyPolicy.NEVER)
    state = await tenant.backups.get(lost.id)
    assert (state.status, state.backup.job_id) == (JobStatus.COMPLETED, purge.job_id)
    assert [waiting.id for waiting in await tenant.backups.waiting_verifications()] == [lost.id]
    assert not await tenant.backups.record_lost(lost, VerifyPolicy.NEVER)
    other = replace(lost, stored=stored())
    assert await tenant.backups.record_lost(other, VerifyPolicy.NEVER)
    own = await tenant.backups.get(UUID(other.stored.stored_id))
    assert (own.status, own.backup.kind, own.backup.job_id) == (JobStatus.COMPLETED, FINAL, purge.job_id)
    await tenant.backups.mark_deleted(lost.id)
    assert not await tenant.backups.record_lost(replace(lost, stored=stored()), VerifyPolicy.NEVER)


_CONTEXTS = (
    "SELECT contextkey, contextvalue FROM dbo.odsinstancecontexts WHERE odsinstance_odsinstanceid = $1"
)


def _keeping(year: str) -> dict[str, object]:
    contexts = [{"contextKey": "schoolYear", "contextValue": year}]
    return {"description": f"As of {year}", "labels": {"year": year}, "contexts": contexts}


@pytest.mark.parametrize("other", ["none", "has the contexts", "was given others since"])
async def test_recovered_instance_gets_what_its_newest_backup_keeps(
    tenant: Tenant, rows: asyncpg.Connection, name: str, other: str
) -> None:
    mark, number = uuid4(), 600_000
    told = ToldInstance(name, "Minimal", number, str(mark), 1, None, str(uuid4()), str(uuid4()))
    instance = await tenant.adoptions.follow(told, DatabaseName(f"EdFi_Ods_{name}", CONNECTION_STRING))
    if other != "none":
        owner = number
        if other == "has the contexts":
            owner = await rows.fetchval(
                "INSERT INTO dbo.odsinstances (name) VALUES ('other') RETURNING odsinstanceid"
            )
        add = (
            "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
            " VALUES ($1, 'schoolyear', $2)"
        )
        await rows.execute(add, owner, "2027" if other == "has the contexts" else "2030")
    own = UUID((await tenant.instances.installation.state()).id)
    for year in ("2027", "2026"):  # the pass records the newest one first
        lost = LostBackup(uuid4(), number, mark, name, FINAL, None, _keeping(year), own, stored())
        assert await tenant.backups.record_lost(lost, VerifyPolicy.NEVER)
    after = await tenant.queries.instance(instance.id)
    assert (after.description, after.labels) == ("As of 2027", {"year": "2027"})
    expected = {
        "none": [("schoolYear", "2027")],
        "has the contexts": [],
        "was given others since": [("schoolyear", "2030")],
    }
    assert [tuple(row) for row in await rows.fetch(_CONTEXTS, number)] == expected[other]


async def test_backup_that_is_recorded_again_stays_while_its_purge_may_have_half_dropped_the_database(
    instances: InstanceStore, job_store: JobStore, tenant: Tenant, name: str
) -> None:
    trashed = await bring_to(instances, job_store, "Deleted", name)
    number, mark = trashed.ods_instance_id, UUID(trashed.mark)
    own = UUID((await tenant.instances.installation.state()).id)
    found = LostBackup(uuid4(), number, mark, name, FINAL, None, {}, own, stored())
    assert await tenant.backups.record_lost(found, VerifyPolicy.WEEKLY)  # the registry was put back
    with pytest.raises(BackupRefusedError, match="may be half dropped"):
        await tenant.backups.mark_deleted(found.id)
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    assert (await job_store.begin(undelete)).held
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    await tenant.backups.mark_deleted(found.id)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
@pytest.mark.parametrize("then", ["undeleted", "purged"])
async def test_verified_backup_stays_while_its_purge_may_have_half_dropped_the_database(
    instances: InstanceStore,
    job_store: JobStore,
    tenant: Tenant,
    purge: InstanceJob,
    end: str,
    then: str,
) -> None:
    assert await job_store.record_final_backup(purge, stored(), "state")
    backup = await tenant.backups.final_of(purge)
    assert backup is not None
    await tenant.backups.finish_proof(backup, None)
    assert await job_store.fail(purge, "The server was away.", cancelled=end == "cancelled")
    with pytest.raises(BackupRefusedError, match="may be half dropped") as refused:
        await tenant.backups.mark_deleted(backup.id)
    assert refused.value.next_step.startswith("Undelete the instance")
    if then == "undeleted":
        undelete = (await instances.request_undelete(purge.instance_id)).job
        with pytest.raises(BackupRefusedError, match="may be half dropped"):
            await tenant.backups.mark_deleted(backup.id)
        assert (await job_store.begin(undelete)).held
        assert await job_store.fail(undelete, "A DROP of it was interrupted.")
        with pytest.raises(BackupRefusedError, match="may be half dropped"):
            await tenant.backups.mark_deleted(backup.id)
        await job_store.end_undo(undelete)
        undelete = (await instances.request_undelete(purge.instance_id)).job
        assert (await job_store.begin(undelete)).held
        assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    else:
        again = (await instances.request_purge(purge.instance_id)).job
        with pytest.raises(BackupRefusedError, match="may be half dropped"):
            await tenant.backups.mark_deleted(backup.id)
        assert (await job_store.begin(again)).held
        assert await job_store.finish_purge(again, dropped=True)
    await tenant.backups.mark_deleted(backup.id)
