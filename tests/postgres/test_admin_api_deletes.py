"""Deletes that an Admin API writes into rows of this service whose database was to be dropped."""

from datetime import timedelta

import pytest

from ods.model.arguments import Way
from ods.model.operations import JobStatus
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from tests.postgres.ed_fi_admin import EdFiAdmin
from tests.postgres.instance_states import bring_to, stores

pytestmark = pytest.mark.long

WEEK, NO_TRASH = timedelta(days=7), timedelta()
DROP, WITH_BACKUP = Delete(Way.DROP), Delete(Way.DROP, final_backup=True)
WORDS = ["PendingDelete", "DeleteInProgress"]
_CONTEXT = (
    "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
    " VALUES ($1, 'year', '2027')"
)


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


@pytest.mark.parametrize(("trash", "way"), [(WEEK, Way.TRASH), (NO_TRASH, Way.DROP)])
@pytest.mark.parametrize("word", [*WORDS, "DeleteFailed", "DeleteError"])
async def test_delete_goes_the_way_of_the_settings_when_it_was_there_before_this_service(
    ed_fi_admin: EdFiAdmin, word: str, trash: timedelta, way: Way
) -> None:
    """What waits is carried out; what has failed is when a client asks for it again."""
    await ed_fi_admin.first_script()
    number = await ed_fi_admin.add("Theirs", word, 7)
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=trash)
    if word not in WORDS:
        assert await due(job_store) == []
        asked = (await instances.request_retry(number)).job
        assert (asked.rules.name, asked.number, asked.attempt) == (way, 1, 1)
    (job,) = await due(job_store)
    assert (job.rules.name, job.number, job.attempt) == (way, 1, 1)
    assert job.rules.to_trash is (way is Way.TRASH)
    assert (await job_store.begin(job)).held
    assert await job_store.finish_delete(job)


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
    assert (job.rules.name, job.number, job.attempt) == ("Trash", failed.number + 1, 1)
    assert not job.backup_first
    assert (await job_store.begin(job)).held
    assert await job_store.finish_delete(job)
    assert await instances.request_purge_after(job) is None
    row = await InstanceQueries(ed_fi_admin.engine).any_instance(created.instance_id)
    assert row is not None
    assert row.is_in_trash
    assert row.database.purge_after is not None
    assert row.database.trashed_at is not None
    assert row.database.purge_after - row.database.trashed_at > WEEK - timedelta(hours=1)
    assert not await instances.is_purge_due()
    before = await InstanceQueries(ed_fi_admin.engine).job(failed.job_id)
    assert before is not None
    assert before.status == JobStatus.ERROR


@pytest.mark.parametrize(("delete", "way"), [(DROP, Way.DROP), (WITH_BACKUP, Way.TRASH)])
async def test_backup_is_not_left_out_when_an_admin_api_asks_for_a_delete_after_a_failed_purge_without_trash(
    ed_fi_admin: EdFiAdmin, delete: Delete, way: Way
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=NO_TRASH)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    failed = await begun(instances, job_store, created.instance_id, delete)
    assert await job_store.fail(failed, "It has failed.")
    await write(ed_fi_admin, "PendingDelete")
    (job,) = await due(job_store)
    assert (job.rules.name, job.number) == (way, failed.number + 1)
    assert bool(job.backup_first) is delete.final_backup


async def test_context_refuses_the_delete_of_an_admin_api_when_it_would_be_purged_without_trash(
    ed_fi_admin: EdFiAdmin,
) -> None:
    """With and without a final backup."""
    await ed_fi_admin.install()
    queries = InstanceQueries(ed_fi_admin.engine)
    instances, job_store = stores(ed_fi_admin.engine, trash=NO_TRASH, final_backup=True)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    await ed_fi_admin.sql.execute(_CONTEXT, created.ods_instance_id)
    for final_backup in (True, False):
        _, job_store = stores(ed_fi_admin.engine, trash=NO_TRASH, final_backup=final_backup)
        await write(ed_fi_admin, "PendingDelete")
        (job,) = await due(job_store)
        assert bool(job.backup_first) is final_backup
        assert not (await job_store.begin(job)).held
        row = await queries.instance(created.instance_id)
        assert (row.status, row.set_aside) == ("Completed", None)
        assert row.error_message == "The ODS instance is in use by OdsInstanceContexts."
        assert len(await queries.contexts_of(created.ods_instance_id)) == 1


OTHER_WORDS = ["DeleteFailed", "DeleteError", "Deleted", "InProgress", "Error", "Pending", "Created"]
ALL_WORDS = [*WORDS, *OTHER_WORDS]


async def seen(ed_fi_admin: EdFiAdmin) -> dict[str, object]:
    """What the registry has of the only instance, but for the word that the Admin API reads and writes."""
    row = await ed_fi_admin.sql.fetchrow("SELECT * FROM adminapi.dbinstances")
    return {column: value for column, value in (row or {}).items() if column != "status"}


async def in_trash(instances: InstanceStore, job_store: JobStore, state: str) -> InstanceJob:
    """An instance in the trash whose last job is a delete, or an undelete or purge that came to nothing."""
    trashed = await bring_to(instances, job_store, "Deleted", "Ours")
    match state:
        case "trashed":
            return trashed
        case "undelete failed":
            job = (await instances.request_undelete(trashed.instance_id)).job
            assert (await job_store.begin(job)).held
            assert await job_store.fail(job, "It has failed.")
            await job_store.end_undo(job)
        case "purge failed" | "purge cancelled":
            job = await begun(instances, job_store, trashed.instance_id, DROP)
            assert await job_store.fail(job, "It has ended.", cancelled=state == "purge cancelled")
        case "backup before the purge failed":
            job = await begun(instances, job_store, trashed.instance_id, WITH_BACKUP)
            assert await job_store.fail(job, "It has ended.")
        case _:
            raise AssertionError(state)
    return job


@pytest.mark.parametrize("trash", [WEEK, NO_TRASH], ids=["trash", "no trash"])
@pytest.mark.parametrize(
    "state",
    ["trashed", "undelete failed", "purge failed", "purge cancelled", "backup before the purge failed"],
)
async def test_instance_in_the_trash_stays_as_it_is_when_an_admin_api_writes_a_word(
    ed_fi_admin: EdFiAdmin, state: str, trash: timedelta
) -> None:
    await ed_fi_admin.install()
    before = await in_trash(*stores(ed_fi_admin.engine, trash=WEEK), state)
    instances, job_store = stores(ed_fi_admin.engine, trash=trash)
    row = await seen(ed_fi_admin)
    for word in ALL_WORDS:
        await write(ed_fi_admin, word)
        assert await due(job_store) == []
        assert await seen(ed_fi_admin) == row
    undelete = (await instances.request_undelete(before.instance_id)).job
    assert (await job_store.begin(undelete)).held


async def test_nothing_is_done_when_an_admin_api_writes_a_word_after_a_purge(
    ed_fi_admin: EdFiAdmin,
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    trashed = await bring_to(instances, job_store, "Deleted", "Ours")
    purge = await begun(instances, job_store, trashed.instance_id, DROP)
    assert await job_store.finish_purge(purge)
    row = await seen(ed_fi_admin)
    for word in ALL_WORDS:
        await write(ed_fi_admin, word)
        assert await due(job_store) == []
        assert await seen(ed_fi_admin) == row


@pytest.mark.parametrize("delete", [DROP, WITH_BACKUP])
async def test_cancelled_purge_of_a_live_instance_stays_so_when_an_admin_api_writes_a_word_but_a_delete(
    ed_fi_admin: EdFiAdmin, delete: Delete
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    failed = await begun(instances, job_store, created.instance_id, delete)
    assert await job_store.fail(failed, "The job was cancelled.", cancelled=True)
    row = await seen(ed_fi_admin)
    for word in OTHER_WORDS:
        await write(ed_fi_admin, word)
        assert await due(job_store) == []
        assert await seen(ed_fi_admin) == row


@pytest.mark.parametrize(
    "state",
    [
        "Completed",
        "Completed_Rename",
        "Error",
        "Error_Rename",
        "Pending_Rename",
        "InProgress_Rename",
        "InProgress",
    ],
)
async def test_instance_stays_as_it_is_when_an_admin_api_writes_a_word_but_a_delete(
    ed_fi_admin: EdFiAdmin, state: str
) -> None:
    await ed_fi_admin.install()
    await bring_to(*stores(ed_fi_admin.engine, trash=WEEK), state, "Ours")
    row = await seen(ed_fi_admin)
    for word in ("InProgress", "Error", "Pending", "Created", "CreateInProgress"):
        await write(ed_fi_admin, word)
        assert await seen(ed_fi_admin) == row


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "runs"])
@pytest.mark.parametrize("purge", [DROP, WITH_BACKUP])
async def test_purge_from_the_trash_goes_on_when_an_admin_api_writes_a_word(
    ed_fi_admin: EdFiAdmin, purge: Delete, *, waits: bool
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    trashed = await bring_to(instances, job_store, "Deleted", "Ours")
    job = (await instances.request_delete(trashed.instance_id, purge)).job
    if not waits:
        assert (await job_store.begin(job)).held
    row = await seen(ed_fi_admin)
    for word in ALL_WORDS:
        await write(ed_fi_admin, word)
        assert await seen(ed_fi_admin) == row


@pytest.mark.parametrize("delete", [Delete(Way.TRASH), Delete(Way.LEAVE), DROP, WITH_BACKUP])
async def test_delete_that_runs_goes_on_when_an_admin_api_writes_a_word(
    ed_fi_admin: EdFiAdmin, delete: Delete
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    created = await bring_to(instances, job_store, "Completed", "Ours")
    job = await begun(instances, job_store, created.instance_id, delete)
    for word in ALL_WORDS:
        await write(ed_fi_admin, word)
        await job_store.follow_admin_api()
        assert await job_store.waiting_jobs(0, 10) == []
        assert await job_store.running_jobs(0, 10) == [job]
    assert await job_store.finish_delete(job)


@pytest.mark.parametrize("is_in_trash", [True, False])
async def test_purge_that_was_cancelled_is_not_done_when_an_admin_api_asks_for_a_delete_before_it_has_ended(
    ed_fi_admin: EdFiAdmin, *, is_in_trash: bool
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=WEEK)
    before = await bring_to(instances, job_store, "Deleted" if is_in_trash else "Completed", "Ours")
    job = await begun(instances, job_store, before.instance_id, DROP)
    await ed_fi_admin.sql.execute("UPDATE adminapi.dbinstances SET cancelledattempt = attempt")
    await write(ed_fi_admin, "PendingDelete")
    assert await due(job_store) == []
    assert await job_store.fail(job, "The job was cancelled.")
    assert await due(job_store) == []
    assert await ed_fi_admin.status("Ours") == ("Deleted" if is_in_trash else "Delete_Failed")


@pytest.mark.parametrize("word", ["DeleteFailed", "Delete_Failed", "DeleteError"])
async def test_drop_does_not_begin_when_an_admin_api_has_told_meanwhile_that_it_has_failed(
    ed_fi_admin: EdFiAdmin, word: str
) -> None:
    await ed_fi_admin.install()
    instances, job_store = stores(ed_fi_admin.engine, trash=NO_TRASH)
    before = await bring_to(instances, job_store, "Completed", "Ours")
    drop = (await instances.request_delete(before.instance_id, DROP)).job
    await write(ed_fi_admin, word)
    assert not (await job_store.begin(drop)).held
    assert await due(job_store) == []
    again = (await instances.request_retry(before.instance_id)).job
    assert (await job_store.begin(again)).held
