"""Resets in the registry: what is refused, what each step writes, and which versions are kept how long."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Template
from ods.registry.installation import InstallationStore
from ods.registry.instances.adoptions import AdoptionStore, DatabaseName, ToldInstance
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.deletes import PLAIN_DELETE, Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import is_reset_name, trash_name
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.instances.versions import ReplacedDatabase, VersionStore
from ods.registry.keeping import KEPT_IN_DOUBT
from ods.registry.storage.errors import InstanceNotFoundError, InvalidError, RefusedError
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance, InstanceDatabase
from tests.postgres.instance_states import CONNECTION_STRING, POLICY
from tests.servers import session

pytestmark = pytest.mark.long

PROTECTED = AttributeChanges(protected=True)
UNPROTECTED = AttributeChanges(protected=False)
TRASH = timedelta(days=7)
_SOME = 3
_MANY = 5


@pytest.fixture(autouse=True)
async def without_versions(rows: asyncpg.Connection) -> None:
    """What another test has left would be due with those of a test that lets time pass for all."""
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")


@pytest.fixture
def factory(engine: AsyncEngine) -> JobFactory:
    return JobFactory(InstallationStore(engine), POLICY)


@pytest.fixture
def instances(engine: AsyncEngine, factory: JobFactory) -> InstanceStore:
    return InstanceStore(engine, factory, TRASH)


@pytest.fixture
def job_store(engine: AsyncEngine, factory: JobFactory) -> JobStore:
    return JobStore(engine, factory, TRASH)


@pytest.fixture
def versions(engine: AsyncEngine, factory: JobFactory) -> VersionStore:
    return VersionStore(engine, factory)


@pytest.fixture
async def completed(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    job = (await instances.reserve(name, Template.MINIMAL)).job
    assert (await job_store.begin(job)).held
    assert await job_store.finish_create(replace(job, template_generation=3), CONNECTION_STRING)
    return job


async def reset(instances: InstanceStore, job_store: JobStore, job: InstanceJob) -> InstanceJob:
    """A reset that is done."""
    requested = (await instances.request_reset(job.instance_id, by="a client")).job
    assert (await job_store.begin(requested)).held
    assert await job_store.finish_replacement(replace(requested, template_generation=4))
    return requested


async def undo(
    instances: InstanceStore, job_store: JobStore, job: InstanceJob, database: str | None = None
) -> InstanceJob:
    """An undo that is done."""
    requested = (await instances.request_undo_reset(job.instance_id, database=database)).job
    assert (await job_store.begin(requested)).held
    assert await job_store.finish_replacement(requested)
    return requested


async def row(queries: InstanceQueries, job: InstanceJob) -> DbInstance:
    found = await queries.any_instance(job.instance_id)
    assert found is not None
    return found


async def of_instance(queries: InstanceQueries, job: InstanceJob) -> Sequence[InstanceDatabase]:
    return [one for one in await queries.versions() if one.instance_id == job.instance_id]


async def trashed(
    instances: InstanceStore, job_store: JobStore, job: InstanceJob, delete: Delete = PLAIN_DELETE
) -> InstanceJob:
    """Move the database of the instance to the trash; returns the job that has done so."""
    trash = (await instances.request_delete(job.instance_id, delete)).job
    assert (await job_store.begin(trash)).held
    assert await job_store.finish_delete(trash)
    return trash


def kept_for(database: InstanceDatabase) -> timedelta:
    """How long it stays in the trash."""
    assert database.purge_after
    assert database.trashed_at
    return database.purge_after - database.trashed_at


async def due(rows: asyncpg.Connection) -> None:
    """Let the time of every version be over."""
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )


async def test_replaced_database_is_a_version_when_a_reset_is_recorded(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    requested = (await instances.request_reset(completed.instance_id, "Sample", "a client")).job
    replacement = requested.replacement
    assert replacement is not None
    assert requested.job_id == f"ResetInstanceJob-{completed.ods_instance_id}-2"
    assert is_reset_name(replacement.database)
    assert (await job_store.begin(requested)).held
    done = replace(requested, template_generation=5)
    for _ in range(2):  # safe to repeat
        assert await job_store.finish_replacement(done)
    after = await row(queries, completed)
    assert (after.status, after.replacement, str(after.database_id)) == (
        *("Completed", None),
        replacement.database_id,
    )
    assert (after.database_template, after.database.template_generation) == ("Sample", 5)
    assert (after.name, after.database_name, str(after.mark)) == (
        *(completed.name, completed.database),
        completed.mark,
    )
    (version,) = await of_instance(queries, completed)
    assert str(version.database_id) == completed.database_id
    assert version.trash_name == requested.trash_database == trash_name(completed.database_id)
    assert (version.database_template, version.template_generation) == ("Minimal", 3)
    assert (version.job_number, version.trashed_by) == (2, "a client")
    assert abs(kept_for(version) - TRASH) < timedelta(seconds=5)
    job = await queries.job(requested.job_id)
    assert job is not None
    assert (job.status, job.operation) == ("Completed", "Reset")


async def test_version_is_the_database_again_when_the_reset_is_undone(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    first = await reset(instances, job_store, completed)
    second = await undo(instances, job_store, completed)
    after = await row(queries, completed)
    assert (str(after.database_id), after.database_template) == (completed.database_id, "Minimal")
    (version,) = await of_instance(queries, completed)
    assert first.replacement is not None
    assert second.replacement is not None
    assert (str(version.database_id), version.trash_name) == (
        first.replacement.database_id,
        second.trash_database,
    )
    assert second.job_id == f"UndoResetInstanceJob-{completed.ods_instance_id}-3"


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Error", "Pending_Delete", "Deleted"])
async def test_reset_is_refused_when_the_instance_is_not_completed(
    instances: InstanceStore, job_store: JobStore, completed: InstanceJob, name: str, state: str
) -> None:
    job = completed
    if state in {"Pending", "InProgress", "Error"}:
        job = (await instances.reserve(f"{name} b", Template.MINIMAL)).job
        if state != "Pending":
            await job_store.begin(job)
        if state == "Error":
            await job_store.fail(job, "It could not be created.")
    else:
        job = (await instances.request_delete(job.instance_id)).job
        if state == "Deleted":
            await job_store.begin(job)
            await job_store.finish_delete(job)
    expected = InstanceNotFoundError if state == "Deleted" else RefusedError
    for request in (instances.request_reset, instances.request_undo_reset):
        with pytest.raises(expected):
            await request(job.instance_id)


async def test_reset_is_refused_when_the_instance_is_protected(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    await reset(instances, job_store, completed)
    await instances.change_attributes(completed.instance_id, PROTECTED)
    for request in (instances.request_reset, instances.request_undo_reset):
        with pytest.raises(RefusedError, match="protected"):
            await request(completed.instance_id)
    assert (await row(queries, completed)).status == InstanceStatus.COMPLETED


async def test_undo_is_refused_when_nothing_was_reset(
    instances: InstanceStore, completed: InstanceJob
) -> None:
    with pytest.raises(RefusedError, match="No earlier database"):
        await instances.request_undo_reset(completed.instance_id)


async def test_instance_is_completed_and_takes_no_request_when_a_failed_reset_is_not_undone_yet(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    job = (await instances.request_reset(completed.instance_id)).job
    assert (await job_store.begin(job)).held
    for _ in range(2):  # safe to repeat
        assert await job_store.fail(job, "Sessions do not end.")
    assert not await job_store.finish_replacement(job)
    assert not await job_store.is_replaced(job)
    after = await row(queries, completed)
    assert (after.status, after.error_message) == ("Completed", None)
    recorded = await queries.job(job.job_id)
    assert recorded is not None
    assert (recorded.status, recorded.error_message) == ("Error", "Sessions do not end.")
    requests = [
        instances.request_reset(job.instance_id),
        instances.request_delete(job.instance_id, Delete()),
        instances.request_rename(job.instance_id, f"{job.name} b"),
    ]
    for request in requests:
        with pytest.raises(RefusedError, match="not undone yet"):
            await request
    assert [left.job_id for left in await job_store.jobs_to_undo()] == [job.job_id]
    await job_store.end_replacement(job)
    due = (await job_store.known_revisions(job)).due
    assert [left.job_id for left in await job_store.jobs_to_undo()] == [job.job_id]
    await job_store.resolve(job, [one.id for one in due[-1:]], [one.id for one in due])
    assert await job_store.jobs_to_undo() == []
    await instances.request_rename(job.instance_id, f"{job.name} b")


async def test_failure_is_not_recorded_when_the_reset_was_recorded_as_done(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    job = await reset(instances, job_store, completed)
    assert not await job_store.fail(job, "The connection broke.")
    assert await job_store.is_replaced(job)
    recorded = await queries.job(job.job_id)
    assert recorded is not None
    assert recorded.status == JobStatus.COMPLETED


async def test_next_attempt_begins_only_after_a_failure(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    job = (await instances.request_reset(completed.instance_id)).job
    assert (await job_store.begin(job)).held
    again = replace(job, attempt=2)
    assert not (await job_store.begin(again)).held
    await job_store.fail(job, "Sessions do not end.")
    await job_store.end_replacement(job)  # what it had made is gone; the next attempt makes it again
    assert (await job_store.begin(again)).held
    assert (await row(queries, completed)).replacement is not None
    assert await job_store.finish_replacement(again)
    assert not (await job_store.begin(replace(job, attempt=3))).held
    assert not (await job_store.begin(job)).held


async def test_reset_does_not_begin_when_it_was_cancelled(
    engine: AsyncEngine,
    factory: JobFactory,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    completed: InstanceJob,
) -> None:
    requested = (await instances.request_reset(completed.instance_id)).job
    recorded = await queries.job(requested.job_id)
    assert recorded is not None
    assert await JobCancellations(engine, factory).cancel_waiting(recorded)
    after = await row(queries, completed)
    assert (after.status, after.replacement) == ("Completed", None)
    assert not (await job_store.begin(requested)).held
    assert (await row(queries, completed)).status == InstanceStatus.COMPLETED
    await reset(instances, job_store, completed)


async def test_what_was_begun_is_kept_in_the_row_when_the_reset_was_cancelled_without_a_workflow(
    engine: AsyncEngine,
    factory: JobFactory,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    completed: InstanceJob,
) -> None:
    job = (await instances.request_reset(completed.instance_id)).job
    assert (await job_store.begin(job)).held
    assert await JobCancellations(engine, factory).cancel_lost(job)
    assert (await row(queries, completed)).status == InstanceStatus.COMPLETED
    (left,) = await job_store.jobs_to_undo()
    assert left.replacement == job.replacement
    assert await job_store.follow_exchange(left)  # the databases were exchanged before
    after = await row(queries, completed)
    assert job.replacement is not None
    assert (str(after.database_id), after.replacement) == (job.replacement.database_id, None)
    assert len(await of_instance(queries, completed)) == 1
    assert not await job_store.follow_exchange(left)


async def test_exchange_is_recorded_when_another_product_has_requested_a_delete_meanwhile(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    job = (await instances.request_reset(completed.instance_id)).job
    assert (await job_store.begin(job)).held
    await job_store.fail(job, "The connection broke.")
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", job.instance_id
    )
    await job_store.follow_admin_api()
    (delete,) = [one for one in await job_store.waiting_jobs(0, 100) if one.instance_id == job.instance_id]
    assert delete.rules.to_trash
    assert not await job_store.follow_exchange(delete)  # it is about to begin
    assert (await job_store.begin(delete)).held
    await job_store.fail(delete, "It carries another mark.")
    (left,) = await job_store.jobs_to_undo()
    assert await job_store.follow_exchange(left)
    after = await row(queries, completed)
    assert (after.status, after.replacement) == ("Delete_Failed", None)
    assert len(await of_instance(queries, completed)) == 1


async def test_no_purge_follows_a_delete_that_has_overtaken_a_reset_which_was_told_as_failed(
    engine: AsyncEngine,
    factory: JobFactory,
    queries: InstanceQueries,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    instances = InstanceStore(engine, factory)
    worker = JobStore(engine, factory, final_backup=True)
    reset = (await instances.request_reset(completed.instance_id)).job
    assert (await worker.begin(reset)).held
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", reset.instance_id
    )
    await worker.follow_admin_api()
    (delete,) = [one for one in await worker.waiting_jobs(0, 100) if one.instance_id == reset.instance_id]
    assert (delete.rules.name, delete.backup_first) == ("Trash", True)
    assert (await worker.begin(delete)).held
    await worker.fail(delete, "It carries another mark.")
    assert await worker.follow_exchange(delete)
    again = (await instances.request_retry(delete.instance_id)).job
    assert (again.rules.name, again.backup_first) == ("Trash", False)
    assert (await worker.begin(again)).held
    assert await worker.finish_delete(again)
    assert await instances.request_purge_after(again) is None
    after = await row(queries, completed)
    assert abs(kept_for(after.database) - KEPT_IN_DOUBT) < timedelta(seconds=5)
    (version,) = await of_instance(queries, completed)
    assert version.purge_after
    assert after.database.purge_after
    assert version.purge_after >= after.database.purge_after


async def test_each_version_is_kept_for_its_time_when_many_resets_follow_each_other(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    """As by a double click: what the instance had before the first is the one that holds data."""
    resets = [await reset(instances, job_store, completed) for _ in range(_MANY)]
    assert not await versions.is_purge_due()
    assert await versions.claim_due(20) == []
    assert len(await of_instance(queries, completed)) == _MANY
    replaced = [job.trash_database for job in resets]
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE databaseid = $1",
        resets[1].database_id,
    )
    (purge,) = await versions.claim_due(20)
    assert purge.database == replaced[1]
    assert await versions.instance_of(purge) is not None
    for _ in range(2):
        await versions.finish_purge(purge)
    assert await versions.instance_of(purge) is None
    left = {version.trash_name for version in await of_instance(queries, completed)}
    assert left == {*replaced} - {replaced[1]}


async def test_other_versions_are_claimed_when_another_session_has_locked_one(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    registry_dsn: str,
) -> None:
    resets = [await reset(instances, job_store, completed) for _ in range(3)]
    due = [job.trash_database for job in resets[:2]]
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE databaseid = ANY ($1)",
        [job.database_id for job in resets[:2]],
    )
    async with session(registry_dsn) as forgotten, forgotten.transaction(), asyncio.timeout(5):
        its = "SELECT FROM adminapi.databases WHERE databaseid = $1 FOR UPDATE"
        await forgotten.execute(its, resets[0].database_id)
        assert [one.database for one in await versions.claim_due(20)] == due[1:]
    claimed = await versions.claim_due(20)
    assert {one.database for one in claimed} == set(due)
    for purge in claimed:
        await versions.finish_purge(purge)


async def test_each_version_can_be_brought_back_when_it_is_named(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    resets = [await reset(instances, job_store, completed) for _ in range(_SOME)]
    marks = {version.trash_name: version.database_id for version in await of_instance(queries, completed)}
    last = (await row(queries, completed)).database_id
    first, second, third = [job.trash_database for job in resets]
    assert str(marks[first]) == completed.database_id  # what it was created with
    for database in (first, third, second):
        before = (await row(queries, completed)).database_id
        back = await undo(instances, job_store, completed, database)
        assert back.replacement is not None
        assert (await row(queries, completed)).database_id == marks[database]
        kept = {one.trash_name: one.database_id for one in await of_instance(queries, completed)}
        assert kept[back.trash_database] == before
        assert database not in kept
        assert len(kept) == _SOME
    assert last in kept.values()


async def test_undo_is_refused_when_what_it_names_cannot_come_back(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    name: str,
    rows: asyncpg.Connection,
) -> None:
    other = (await instances.reserve(f"{name} b", Template.MINIMAL)).job
    assert (await job_store.begin(other)).held
    assert await job_store.finish_create(other, CONNECTION_STRING)
    await reset(instances, job_store, other)
    (of_other,) = await of_instance(queries, other)
    first, _ = [await reset(instances, job_store, completed) for _ in range(2)]
    assert first.replacement is not None
    unknown = (of_other.trash_name, completed.database, "ods_trash_x", "", "a\0b", "x" * 2000)
    for database in unknown:
        with pytest.raises(InvalidError) as refused:
            await instances.request_undo_reset(completed.instance_id, database=database)
        assert "`ods trash`" in refused.value.errors["Database"][0]
    named = "UPDATE adminapi.databases SET purgeafter = $2 WHERE databaseid = $1"
    await rows.execute(named, first.database_id, datetime(2026, 1, 1))  # noqa: DTZ001 - as the column
    (purge,) = await versions.claim_due(20)
    assert purge.database == first.trash_database
    with pytest.raises(RefusedError, match="is being dropped: its time is over") as claimed:
        await instances.request_undo_reset(completed.instance_id, database=first.trash_database)
    assert "Bring back another one" in claimed.value.next_step
    assert (await row(queries, completed)).status == InstanceStatus.COMPLETED
    await undo(instances, job_store, completed)  # as the refusal says


async def test_named_version_is_brought_back_or_claimed_when_both_are_requested_at_once(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    for number in range(6):
        oldest = await reset(instances, job_store, completed)
        assert oldest.replacement is not None
        await reset(instances, job_store, completed)
        await due(rows)
        named = instances.request_undo_reset(completed.instance_id, database=oldest.trash_database)
        requests = [named, versions.claim_due(20)]
        if number % 2:
            requests.reverse()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        undone, claimed = reversed(answers) if number % 2 else answers
        assert isinstance(claimed, list)
        assert bool(claimed) is isinstance(undone, RefusedError)
        for purge in claimed or []:
            await versions.finish_purge(purge)
        if not claimed:
            assert not isinstance(undone, BaseException)
            assert (await job_store.begin(undone.job)).held  # type: ignore[attr-defined]
            await job_store.finish_replacement(undone.job)  # type: ignore[attr-defined]
            await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")


async def test_latest_version_comes_back_first_when_the_clock_was_set_back(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    """The earlier ones have later times: it must not pass for the oldest."""
    for _ in range(_SOME):
        await reset(instances, job_store, completed)
    await rows.execute(
        "UPDATE adminapi.databases"
        " SET trashedat = trashedat + interval '1 hour', purgeafter = purgeafter + interval '1 hour'"
    )
    latest = (await row(queries, completed)).database_id
    await reset(instances, job_store, completed)
    assert await versions.claim_due(20) == []
    await undo(instances, job_store, completed)
    assert (await row(queries, completed)).database_id == latest


async def test_nothing_is_claimed_when_its_time_is_not_over_or_a_job_may_need_it(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    await reset(instances, job_store, completed)
    assert not await versions.is_purge_due()
    assert await versions.claim_due(20) == []
    await due(rows)
    await instances.change_attributes(completed.instance_id, PROTECTED)
    assert await versions.claim_due(20) == []
    await instances.change_attributes(completed.instance_id, UNPROTECTED)
    job = (await instances.request_undo_reset(completed.instance_id)).job
    assert await versions.claim_due(20) == []
    assert (await job_store.begin(job)).held
    assert await versions.claim_due(20) == []
    await job_store.fail(job, "Sessions do not end.")
    assert await versions.claim_due(20) == []  # it may have been exchanged
    await job_store.end_replacement(job)
    assert await versions.claim_due(20) == []  # it was requested in time, and may be again
    await due(rows)
    (claimed,) = await versions.claim_due(20)
    assert (await job_store.begin(replace(job, attempt=2))).refusal is not None  # a retry comes too late
    await job_store.fail(replace(job, attempt=2), "It is not kept any more.")
    await job_store.end_replacement(replace(job, attempt=2))
    assert await versions.claim_due(20) == [claimed]  # what was claimed and not dropped


async def test_version_is_brought_back_or_claimed_when_both_are_requested_at_once(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    for number in range(6):
        await reset(instances, job_store, completed)
        await due(rows)
        requests = [instances.request_undo_reset(completed.instance_id), versions.claim_due(20)]
        if number % 2:
            requests.reverse()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        undone, claimed = reversed(answers) if number % 2 else answers
        assert isinstance(claimed, list)
        assert bool(claimed) is isinstance(undone, RefusedError)
        for purge in claimed:
            await versions.finish_purge(purge)
        if not claimed:
            assert not isinstance(undone, BaseException)
            assert (await job_store.begin(undone.job)).held  # type: ignore[attr-defined]
            await job_store.finish_replacement(undone.job)  # type: ignore[attr-defined]


async def test_versions_follow_the_instance_when_it_is_deleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
) -> None:
    await reset(instances, job_store, completed)
    await trashed(instances, job_store, completed)
    (version,) = await of_instance(queries, completed)
    assert version.purge_after == (await row(queries, completed)).database.purge_after
    purge = (await instances.request_delete(completed.instance_id, Delete(Way.DROP))).job
    assert (await job_store.begin(purge)).held
    assert await job_store.finish_purge(purge)
    assert [one.database for one in await versions.claim_due(20)] == [version.trash_name]


@pytest.mark.parametrize("delete", [Delete(), Delete(Way.DROP, final_backup=True)])
async def test_pass_purges_no_instance_when_only_another_database_of_it_is_there(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    delete: Delete,
) -> None:
    """Under whatever name; nor at once when that has taken the place of the lost one."""
    await reset(instances, job_store, completed)
    (version,) = await of_instance(queries, completed)
    trash = await trashed(instances, job_store, completed, delete)
    over = "UPDATE adminapi.databases SET purgeafter = now() - interval '1 hour' WHERE reason = 'deleted'"
    await rows.execute(over)
    await due(rows)
    marks = [completed.mark, str(uuid.uuid4())]
    for name in ("renamed by hand", version.trash_name):
        assert await instances.request_due_purges(20, ["another", name], marks) == []
    own = str(trash.trash_database)
    if not delete.final_backup:
        assert await instances.request_due_purges(20, ["another", own], marks) == []
        assert not await instances.is_purge_due()
    await rows.execute(over)
    (requested,) = await instances.request_due_purges(20, ["another", own, version.trash_name], marks)
    assert requested.job.instance_id == completed.instance_id


async def test_version_stays_for_its_own_time_when_its_instance_is_deleted_with_another_setting(
    engine: AsyncEngine,
    factory: JobFactory,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    await reset(instances, job_store, completed)
    (before,) = await of_instance(queries, completed)
    day = timedelta(days=1)
    trash = (await InstanceStore(engine, factory, day).request_delete(completed.instance_id)).job
    worker = JobStore(engine, factory, day)
    assert (await worker.begin(trash)).held
    assert await worker.finish_delete(trash)
    (version,) = await of_instance(queries, completed)
    assert version.purge_after == before.purge_after
    # A purge of the instance would take the version along.
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 hour' WHERE reason = 'deleted'"
    )
    assert not await instances.is_purge_due()
    assert await instances.request_due_purges(20, []) == []
    await due(rows)
    assert await instances.is_purge_due()
    (requested,) = await instances.request_due_purges(20, [])
    assert requested.job.instance_id == completed.instance_id


@pytest.mark.parametrize("change", ["protected", "in the trash"])
async def test_claimed_version_stays_when_its_instance_is_protected_or_deleted_before_it_is_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    change: str,
) -> None:
    await reset(instances, job_store, completed)
    await due(rows)
    (purge,) = await versions.claim_due(20)
    assert await versions.instance_of(purge) is not None
    if change == "protected":
        await instances.change_attributes(completed.instance_id, PROTECTED)
    else:
        await trashed(instances, job_store, completed)
    assert await versions.instance_of(purge) is None
    assert await versions.claim_due(20) == []
    if change == "in the trash":
        undelete = (await instances.request_undelete(completed.instance_id)).job
        assert await versions.instance_of(purge) is None, "while the undelete waits"
        assert (await job_store.begin(undelete)).held
        assert await versions.instance_of(purge) is None, "while it is under way"
        assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
        assert not await versions.is_purge_due(), "it has time again"
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")


@pytest.mark.parametrize("days", ["hours", "weeks"])
async def test_claimed_version_comes_back_when_its_instance_was_protected_before_it_was_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    days: str,
) -> None:
    """The client protects the instance because it needs what was there, however long."""
    before = (await row(queries, completed)).database_id
    await reset(instances, job_store, completed)
    await due(rows)
    (purge,) = await versions.claim_due(20)
    await instances.change_attributes(completed.instance_id, PROTECTED)
    assert await versions.instance_of(purge) is None
    if days == "weeks":
        await due(rows)
    await instances.change_attributes(completed.instance_id, UNPROTECTED)
    assert await versions.claim_due(20) == []
    assert await versions.instance_of(purge) is None, "by the pass that has claimed it"
    (version,) = await of_instance(queries, completed)
    assert version.purge_after
    left = version.purge_after - datetime.now(UTC).replace(tzinfo=None)
    assert abs(left - KEPT_IN_DOUBT) < timedelta(minutes=1)
    await undo(instances, job_store, completed)
    assert (await row(queries, completed)).database_id == before


async def test_version_is_claimed_again_when_its_time_is_over_after_the_protection(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    await reset(instances, job_store, completed)
    await due(rows)
    (purge,) = await versions.claim_due(20)
    await instances.change_attributes(completed.instance_id, PROTECTED)
    await instances.change_attributes(completed.instance_id, UNPROTECTED)
    await due(rows)
    assert await versions.claim_due(20) == [purge]
    await instances.change_attributes(completed.instance_id, UNPROTECTED)  # it is not protected
    assert await versions.instance_of(purge) is not None
    with pytest.raises(RefusedError, match="No earlier database"):
        await instances.request_undo_reset(completed.instance_id)


async def test_version_is_forgotten_when_its_instance_is_protected_while_it_is_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    """It must not be listed, nor offered for an undo, for days."""
    await reset(instances, job_store, completed)
    await due(rows)
    (purge,) = await versions.claim_due(20)
    assert await versions.instance_of(purge) is not None, "right before the DROP"
    await instances.change_attributes(completed.instance_id, PROTECTED)
    await versions.finish_purge(purge)
    assert await of_instance(queries, completed) == []


@pytest.mark.parametrize("end", ["purge cancelled", "purge failed", "undelete failed"])
async def test_version_stays_while_its_instance_waits_in_the_trash_for_the_operator(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    end: str,
) -> None:
    number = completed.instance_id
    await reset(instances, job_store, completed)
    await trashed(instances, job_store, completed)
    requested = instances.request_undelete if end == "undelete failed" else instances.request_purge
    job = (await requested(number)).job
    assert (await job_store.begin(job)).held
    assert await job_store.fail(job, "The server was away.", cancelled=end == "purge cancelled")
    await job_store.end_undo(job)
    await due(rows)
    assert await versions.claim_due(20) == []
    undelete = (await instances.request_undelete(number)).job
    assert (await job_store.begin(undelete)).held
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert await versions.claim_due(20) == [], "there is time to bring it back"
    (version,) = await of_instance(queries, completed)
    assert version.purge_after
    assert version.purge_after > datetime.now(UTC).replace(tzinfo=None) + TRASH - timedelta(hours=1)
    await due(rows)
    assert [one.database for one in await versions.claim_due(20)] == [version.trash_name]
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")


async def test_version_is_due_at_once_when_there_is_no_trash(
    engine: AsyncEngine,
    factory: JobFactory,
    versions: VersionStore,
    instances: InstanceStore,
    job_store: JobStore,
    completed: InstanceJob,
) -> None:
    without = InstanceStore(engine, factory), JobStore(engine, factory)
    job = await reset(*without, completed)
    assert job.replacement is not None
    assert not job.replacement.keeps
    (claimed,) = await versions.claim_replaced(job)
    assert claimed.database == job.trash_database
    with pytest.raises(RefusedError, match="No earlier database"):
        await instances.request_undo_reset(completed.instance_id)
    kept = await reset(instances, job_store, completed)
    assert await versions.claim_replaced(kept) == []


async def begun_without_trash(
    engine: AsyncEngine, factory: JobFactory, completed: InstanceJob
) -> tuple[JobStore, InstanceJob]:
    """A reset that has begun where nothing is kept of what resets replace, and the store of its worker."""
    store, worker = InstanceStore(engine, factory), JobStore(engine, factory)
    job = (await store.request_reset(completed.instance_id)).job
    assert (await worker.begin(job)).held
    return worker, job


async def is_kept_in_doubt(queries: InstanceQueries, completed: InstanceJob) -> None:
    """Check that what the reset has replaced is kept for as long as what may be there by mistake."""
    (version,) = await of_instance(queries, completed)
    assert abs(kept_for(version) - KEPT_IN_DOUBT) < timedelta(seconds=5)


async def test_version_can_come_back_without_a_trash_when_its_reset_was_cancelled_a_moment_too_late(
    engine: AsyncEngine,
    factory: JobFactory,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
) -> None:
    worker, job = await begun_without_trash(engine, factory, completed)
    assert await JobCancellations(engine, factory).record(job)
    assert await worker.finish_replacement(job)
    assert await versions.claim_replaced(job) == []
    await is_kept_in_doubt(queries, completed)


async def test_version_can_come_back_without_a_trash_when_an_earlier_attempt_was_told_as_failed(
    engine: AsyncEngine,
    factory: JobFactory,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
) -> None:
    worker, job = await begun_without_trash(engine, factory, completed)
    assert await worker.fail(job, "The server cannot be reached.", outage=True)
    again = replace(job, attempt=2)  # by a signal, before a pass has looked at what the first one has done
    assert (await worker.begin(again)).held
    assert await worker.finish_replacement(again)
    assert await versions.claim_replaced(again) == []
    await is_kept_in_doubt(queries, completed)


async def test_version_can_be_brought_back_for_a_time_when_an_undo_of_its_last_day_has_failed(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    await reset(instances, job_store, completed)
    undo_reset = (await instances.request_undo_reset(completed.instance_id)).job
    assert (await job_store.begin(undo_reset)).held
    await due(rows)
    assert await job_store.fail(undo_reset, "The server cannot be reached.", outage=True)
    await job_store.end_replacement(undo_reset)
    assert await versions.claim_due(20) == []
    again = (await instances.request_undo_reset(completed.instance_id)).job
    assert (await job_store.begin(again)).held
    assert await job_store.finish_replacement(again)


async def test_version_can_come_back_without_a_trash_when_its_reset_was_told_as_failed(
    engine: AsyncEngine,
    factory: JobFactory,
    queries: InstanceQueries,
    versions: VersionStore,
    instances: InstanceStore,
    completed: InstanceJob,
) -> None:
    worker, job = await begun_without_trash(engine, factory, completed)
    await worker.fail(job, "The server cannot be reached.", outage=True)
    assert await worker.follow_exchange(job)
    assert await versions.claim_replaced(job) == []
    assert await versions.claim_due(20) == []
    await is_kept_in_doubt(queries, completed)
    back = (await instances.request_undo_reset(completed.instance_id)).job
    assert (await worker.begin(back)).held
    assert await worker.finish_replacement(back)


@pytest.mark.parametrize("outcome", ["done", "followed"])
@pytest.mark.parametrize("days", [0, 1, 30])
async def test_version_is_kept_as_long_as_at_the_request_when_the_worker_has_another_setting(
    engine: AsyncEngine,
    factory: JobFactory,
    instances: InstanceStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    days: int,
    outcome: str,
) -> None:
    worker = JobStore(engine, factory, timedelta(days=days))
    job = (await instances.request_reset(completed.instance_id)).job
    assert (await worker.begin(job)).held
    if outcome == "followed":
        await worker.fail(job, "The connection broke.")
        assert await worker.follow_exchange(job)
    else:
        assert await worker.finish_replacement(job)
    (version,) = await of_instance(queries, completed)
    kept = max(TRASH, timedelta(days=days))
    assert abs(kept_for(version) - kept) < timedelta(seconds=5)
    assert await versions.claim_replaced(job) == []
    back = (await instances.request_undo_reset(completed.instance_id)).job
    assert (await worker.begin(back)).held
    assert await worker.finish_replacement(back)
    (version,) = await of_instance(queries, completed)
    assert abs(kept_for(version) - kept) < timedelta(seconds=5)


async def test_jobs_of_the_old_database_do_not_begin_when_another_has_taken_its_place(
    instances: InstanceStore, job_store: JobStore, completed: InstanceJob
) -> None:
    await reset(instances, job_store, completed)
    rename = (await instances.request_rename(completed.instance_id, f"{completed.name} b")).job
    assert not (await job_store.begin(replace(rename, database_id=completed.database_id))).held
    assert not (await job_store.begin(replace(rename, database_id=str(uuid.uuid4())))).held
    assert (await job_store.begin(rename)).held


async def test_each_version_is_claimed_when_the_oldest_cannot_be_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")
    for _ in range(_SOME):
        await reset(instances, job_store, completed)
    await due(rows)
    claims = [(await versions.claim_due(1))[0] for _ in range(2 * _SOME)]
    claimed = [purge.database for purge in claims]
    for purge in claims:
        await versions.finish_purge(purge)
    assert len(set(claimed[:_SOME])) == _SOME
    assert claimed[_SOME:] == claimed[:_SOME]


async def test_another_version_stays_when_it_has_the_id_of_one_that_was_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    """As after the registry was restored between the drop and its record."""
    await rows.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")
    await reset(instances, job_store, completed)
    await due(rows)
    (purge,) = await versions.claim_due(20)
    await versions.finish_purge(replace(purge, database_id=str(uuid.uuid4())))
    assert len(await of_instance(queries, completed)) == 1
    await versions.finish_purge(purge, dropped=False)
    assert await of_instance(queries, completed) == []
    entry = "SELECT title FROM adminapi.audit WHERE method = 'PURGE' AND title LIKE '%' || $1 || '%'"
    assert (await rows.fetchval(entry, purge.database)).startswith(f"Found no {purge.database}")


async def test_no_database_of_the_original_comes_back_when_a_copy_has_become_an_installation_of_its_own(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, completed: InstanceJob
) -> None:
    """Neither what it had before a reset, nor what one was about to put in the place of the instance's."""
    await reset(instances, job_store, completed)
    begun = (await instances.request_reset(completed.instance_id)).job
    assert (await job_store.begin(begun)).held
    await instances.installation.renew()
    await instances.installation.confirm(await instances.installation.state())
    assert await of_instance(queries, completed) == []
    assert await queries.trash(Page("Id")) == []
    after = await row(queries, completed)
    assert after.replacement is None
    assert str(after.database_id) not in {completed.database_id, begun.database_id}
    (running,) = await job_store.running_jobs(after.id - 1, 1)
    assert await job_store.fail(running, "The registry does not say which database takes the place.")
    with pytest.raises(RefusedError, match="No earlier database"):
        await instances.request_undo_reset(completed.instance_id)


@pytest.mark.parametrize("since", [timedelta(days=29), timedelta(days=-2)], ids=["then", "by another clock"])
@pytest.mark.parametrize("is_in_trash", [False, True])
async def test_versions_are_dropped_by_no_pass_when_their_instance_was_recovered(
    engine: AsyncEngine,
    factory: JobFactory,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    versions: VersionStore,
    completed: InstanceJob,
    rows: asyncpg.Connection,
    since: timedelta,
    *,
    is_in_trash: bool,
) -> None:
    """One was due by the restored registry; the other one is found in the trash, which it has forgotten."""
    await reset(instances, job_store, completed)
    if is_in_trash:
        await trashed(instances, job_store, completed)
    await due(rows)
    now = datetime.now(UTC).replace(tzinfo=None)
    found = ReplacedDatabase(*(2, str(uuid.uuid4()), str(uuid.uuid4()), "Sample", None), now - since)
    its = (completed.name, "Minimal", completed.ods_instance_id, completed.mark, 2, 4)
    own = str((await row(queries, completed)).database_id)
    database = DatabaseName(completed.database, CONNECTION_STRING)
    store = AdoptionStore(engine, factory, TRASH)
    await store.follow(ToldInstance(*its, own, str(uuid.uuid4())), database, [found])
    assert await versions.claim_due(20) == []
    known = await of_instance(queries, completed)
    told = {(str(one.database_id), one.database_template, one.purge_after) for one in known}
    assert told == {(completed.database_id, "Minimal", None), (found.database_id, "Sample", None)}
    assert [one for one in known if one.trashed_at and one.trashed_at > now + timedelta(minutes=1)] == []


async def test_nothing_is_recorded_of_an_adopted_database_when_the_block_that_adopts_it_has_ended(
    engine: AsyncEngine, factory: JobFactory, completed: InstanceJob
) -> None:
    store = AdoptionStore(engine, factory)
    async with store.adopting(completed.instance_id, marked=True) as instance:
        pass
    with pytest.raises(RuntimeError, match="block"):
        await store.record_revision(instance, str(uuid.uuid4()))
