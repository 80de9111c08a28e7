"""Deletes that an Admin API writes into rows of this service whose database was to be dropped."""

from datetime import timedelta

import pytest

from registry.instances.deletes import Delete
from registry.instances.job_store import JobStore
from registry.instances.jobs import InstanceJob
from registry.instances.queries import InstanceQueries
from registry.instances.status import JobStatus, Operation
from registry.instances.store import InstanceStore
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.instance_states import bring_to, stores

WEEK, NO_TRASH = timedelta(days=7), timedelta()
DROP, WITH_BACKUP = Delete(Operation.DELETE), Delete(Operation.DELETE, final_backup=True)
WORDS = ["PendingDelete", "DeleteInProgress"]


async def begun(
    instances: InstanceStore, job_store: JobStore, instance_id: int, delete: Delete
) -> InstanceJob:
    """The delete, or the purge of what is in the trash, in progress."""
    job = (await instances.request_delete(instance_id, delete)).job
    assert (await job_store.begin(job)).held
    return job


async def write(ed_fi_admin: EdFiAdmin, word: str) -> None:
    """As an Admin API writes it into the row, which this service follows with its passes."""
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET status = $1", word)


async def due(job_store: JobStore) -> list[InstanceJob]:
    """The jobs that workers would begin after the next sweep and the next reconcile pass."""
    for job in await job_store.running_jobs(0, 10):
        await job_store.release(job)
    await job_store.follow_admin_api()
    return [*await job_store.waiting_jobs(0, 10)]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("delete", [DROP, WITH_BACKUP])
async def test_database_goes_to_the_trash_when_an_admin_api_asks_for_a_delete_after_a_failed_purge(
    ed_fi_admin: EdFiAdmin, delete: Delete, word: str, *, cancelled: bool
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    failed = await begun(instances, job_store, created.instance_id, delete)
    assert await job_store.fail(failed, "It has failed, or was cancelled.", cancelled=cancelled)
    await write(ed_fi_admin, word)
    (job,) = await due(job_store)
    assert (job.operation, job.number, job.attempt) == (Operation.TRASH, failed.number + 1, 1)
    assert not job.purge_follows
    assert job.publication == created.publication
    assert (await job_store.begin(job)).held
    assert await job_store.finish_delete(job)
    assert await instances.request_purge_after(job) is None
    row = await InstanceQueries(ed_fi_admin.engine).any_instance(created.instance_id)
    assert row is not None
    assert row.is_in_trash
    assert row.purge_after is not None
    assert row.trashed_at is not None
    assert row.purge_after - row.trashed_at > WEEK - timedelta(hours=1)
    assert not await instances.is_purge_due()
    before = await InstanceQueries(ed_fi_admin.engine).job(failed.job_id)
    assert before is not None
    assert before.status == JobStatus.ERROR


@pytest.mark.parametrize(("delete", "way"), [(DROP, Operation.DELETE), (WITH_BACKUP, Operation.TRASH)])
async def test_backup_is_not_left_out_when_an_admin_api_asks_for_a_delete_after_a_failed_purge_without_trash(
    ed_fi_admin: EdFiAdmin, delete: Delete, way: Operation
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=NO_TRASH)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    failed = await begun(instances, job_store, created.instance_id, delete)
    assert await job_store.fail(failed, "It has failed.")
    await write(ed_fi_admin, "PendingDelete")
    (job,) = await due(job_store)
    assert (job.operation, job.number) == (way, failed.number + 1)
    assert job.purge_follows is delete.final_backup


@pytest.mark.parametrize("word", [*WORDS, "DeleteFailed"])
@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("purge", [DROP, WITH_BACKUP])
async def test_database_stays_in_the_trash_when_an_admin_api_asks_for_a_delete_after_its_purge_has_failed(
    ed_fi_admin: EdFiAdmin, purge: Delete, word: str, *, cancelled: bool
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    trashed = await bring_to(instances, job_store, "Deleted", "Ours")
    failed = await begun(instances, job_store, trashed.instance_id, purge)
    assert await job_store.fail(failed, "It has failed, or was cancelled.", cancelled=cancelled)
    await write(ed_fi_admin, word)
    assert await due(job_store) == []
    assert await ed_fi_admin.status("Ours") == "Deleted"
    row = await InstanceQueries(ed_fi_admin.engine).any_instance(trashed.instance_id)
    assert row is not None
    assert (row.status, row.is_in_trash, row.purge_after) == ("Deleted", True, None)
    assert not await instances.is_purge_due()
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    assert (await job_store.begin(undelete)).held


async def test_nothing_is_done_when_an_admin_api_asks_for_a_delete_after_a_purge(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    trashed = await bring_to(instances, job_store, "Deleted", "Ours")
    purge = await begun(instances, job_store, trashed.instance_id, DROP)
    assert await job_store.finish_purge(purge)
    await write(ed_fi_admin, "PendingDelete")
    assert await due(job_store) == []
    assert await ed_fi_admin.status("Ours") == "Deleted"


@pytest.mark.parametrize("delete", [Delete(Operation.TRASH), Delete(Operation.DETACH), DROP, WITH_BACKUP])
async def test_delete_that_runs_goes_on_when_an_admin_api_asks_for_another(
    ed_fi_admin: EdFiAdmin, delete: Delete
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    job = await begun(instances, job_store, created.instance_id, delete)
    await write(ed_fi_admin, "PendingDelete")
    await job_store.follow_admin_api()
    assert await job_store.waiting_jobs(0, 10) == []
    assert await job_store.running_jobs(0, 10) == [job]
    assert await ed_fi_admin.status("Ours") == "InProgress"
    assert await job_store.finish_delete(job)


@pytest.mark.parametrize("is_in_trash", [True, False])
async def test_purge_that_was_cancelled_is_not_done_when_an_admin_api_asks_for_a_delete_before_it_has_ended(
    ed_fi_admin: EdFiAdmin, *, is_in_trash: bool
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    before = await bring_to(instances, job_store, "Deleted" if is_in_trash else "Completed", "Ours")
    job = await begun(instances, job_store, before.instance_id, DROP)
    await ed_fi_admin.sql.execute(
        "UPDATE adminapi.dbinstances SET cancellednumber = jobnumber, cancelledattempt = attempt"
    )
    await write(ed_fi_admin, "PendingDelete")
    assert await due(job_store) == []
    assert await job_store.fail(job, "The job was cancelled.")
    assert await due(job_store) == []
    assert await ed_fi_admin.status("Ours") == ("Deleted" if is_in_trash else "Delete_Failed")
