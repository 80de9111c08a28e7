"""The rows of deleted instances: what is set aside and given back, who has the names, what is due."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation, Template
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.cancelling import CANCELLED, CANCELLED_WITHOUT_WORKFLOW, JobCancellations
from ods.registry.instances.deletes import Delete, drops_at_retry
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.ods_instances.store import OdsInstances
from ods.registry.storage.errors import (
    ContextTakenError,
    InstanceNotFoundError,
    InvalidError,
    NameTakenError,
    RefusedError,
)
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, add_version, bring_to, let_time_pass, stores

pytestmark = pytest.mark.long

PURGE = Delete(Way.DROP)
_BACKED_UP = Delete(Way.DROP, final_backup=True)
PROTECTED = AttributeChanges(protected=True)
_DUE = "UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) - interval '3 days'"
_CONTEXT = (
    "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
    " VALUES ($1, 'year', '2027')"
)
_DERIVATIVE = (
    "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
    " VALUES ($1, 'ReadReplica', 'encrypted')"
)
_DERIVATIVES = "SELECT count(*) FROM dbo.odsinstancederivatives WHERE odsinstance_odsinstanceid = $1"


@pytest.fixture
def cancellations(tenant: Tenant) -> JobCancellations:
    return tenant.cancellations


@pytest.fixture
async def trashed(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The delete of an instance in the trash."""
    return await bring_to(instances, job_store, "Deleted", name)


async def row_of(queries: InstanceQueries, job: InstanceJob) -> DbInstance:
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    return row


async def contexts(rows: asyncpg.Connection, job: InstanceJob) -> int:
    counted: int = await rows.fetchval(
        "SELECT count(*) FROM dbo.odsinstancecontexts WHERE odsinstance_odsinstanceid = $1",
        job.ods_instance_id,
    )
    return counted


async def test_undelete_under_another_name_does_not_begin_in_place_of_one_that_has_its_number(
    instances: InstanceStore, job_store: JobStore, trashed: InstanceJob, name: str
) -> None:
    """The registry was restored to before it, and gave its number again."""
    undelete = (await instances.request_undelete(trashed.instance_id, f"{name} back")).job
    lost = replace(undelete, request=str(uuid4()), new_name=f"{name} lost")
    assert not (await job_store.begin(lost)).held
    assert (await job_store.begin(undelete)).held


async def test_parts_stay_when_the_ods_instance_is_in_use_by_rows_of_another_table(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await rows.execute(_CONTEXT, job.ods_instance_id)
    await rows.execute("CREATE TABLE dbo.extension (odsinstanceid int REFERENCES dbo.odsinstances)")
    await rows.execute("INSERT INTO dbo.extension VALUES ($1)", job.ods_instance_id)
    begun = await job_store.begin(job)
    await rows.execute("DROP TABLE dbo.extension")
    assert not begun.held
    assert await contexts(rows, job) == 1
    row = await row_of(queries, job)
    assert (row.status, row.set_aside) == ("Completed", None)
    assert row.error_message == "The ODS instance is in use by rows of another table."
    assert await queries.ods_instance(job.ods_instance_id) is not None


async def test_parts_come_back_when_the_delete_had_to_be_retried(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await rows.execute(_CONTEXT, job.ods_instance_id)
    await job_store.begin(job)
    assert await contexts(rows, job) == 0
    await job_store.fail(job, "Sessions do not end.")
    again = (await instances.request_delete(job.instance_id)).job
    assert again.trash_database == job.trash_database
    await job_store.begin(again)
    assert await job_store.finish_delete(again)
    undelete = (await instances.request_undelete(job.instance_id)).job
    assert (await job_store.begin(undelete)).held
    for _ in range(2):  # the second time there is nothing to do
        assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
        assert await contexts(rows, job) == 1


@pytest.mark.parametrize("way", [Way.LEAVE, Way.DROP])
@pytest.mark.parametrize("part", ["OdsInstanceContexts", "OdsInstanceDerivatives"])
async def test_parts_are_not_forgotten_when_another_delete_follows_a_failed_move_to_the_trash(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    way: Way,
    part: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await rows.execute(_CONTEXT if part == "OdsInstanceContexts" else _DERIVATIVE, job.ods_instance_id)
    await job_store.begin(job)
    await job_store.fail(job, "Sessions do not end.")
    with pytest.raises(RefusedError, match=part) as refused:
        await instances.request_delete(job.instance_id, Delete(way))
    assert f"`ods instance retry {job.instance_id}`" in refused.value.next_step

    retry = (await instances.request_retry(job.instance_id)).job
    await job_store.begin(retry)
    assert await job_store.finish_delete(retry)
    undelete = (await instances.request_undelete(job.instance_id)).job
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    kept = await queries.contexts_of(job.ods_instance_id), await queries.derivatives_of(job.ods_instance_id)
    assert [len(parts) for parts in kept] == ([1, 0] if part == "OdsInstanceContexts" else [0, 1])


async def with_own_context(
    instances: InstanceStore, job_store: JobStore, name: str, year: str = "2027"
) -> InstanceJob:
    """A new instance whose request has given it a context."""
    own = AttributeChanges(contexts={"schoolYear": year})
    job = (await instances.reserve(name, Template.MINIMAL, own)).job
    await job_store.begin(job)
    assert await job_store.finish_create(job, CONNECTION_STRING)
    return job


async def contexts_after_undelete(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, instance_id: int
) -> dict[str, str]:
    undelete = (await instances.request_undelete(instance_id)).job
    assert (await job_store.begin(undelete)).held
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    return {row.key: row.value for row in await queries.contexts_of(undelete.ods_instance_id)}


@pytest.mark.parametrize("way", [PURGE, _BACKED_UP], ids=["purge", "purge with a final backup"])
async def test_context_that_others_gave_stays_when_it_comes_between_a_purge_and_its_beginning(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    way: Delete,
) -> None:
    job = await with_own_context(instances, job_store, name)
    purge = (await instances.request_delete(job.instance_id, way)).job
    await rows.execute(_CONTEXT, job.ods_instance_id)
    assert not (await job_store.begin(purge)).held
    row = await row_of(queries, job)
    assert (row.status, row.set_aside) == ("Completed", None)
    assert row.error_message == "The ODS instance is in use by OdsInstanceContexts."
    assert {it.key for it in await queries.contexts_of(job.ods_instance_id)} == {"schoolYear", "year"}

    await rows.execute("DELETE FROM dbo.odsinstancecontexts WHERE contextkey = 'year'")
    purge = (await instances.request_delete(job.instance_id, way)).job
    await rows.execute("UPDATE dbo.odsinstancecontexts SET contextvalue = '2030'")
    assert not (await job_store.begin(purge)).held
    assert [it.value for it in await queries.contexts_of(job.ods_instance_id)] == ["2030"]

    await rows.execute("UPDATE dbo.odsinstancecontexts SET contextvalue = '2027'")
    purge = (await instances.request_delete(job.instance_id, way)).job
    await rows.execute(_DERIVATIVE, job.ods_instance_id)
    assert not (await job_store.begin(purge)).held
    assert await rows.fetchval(_DERIVATIVES, job.ods_instance_id) == 1

    await rows.execute("DELETE FROM dbo.odsinstancederivatives")
    purge = (await instances.request_delete(job.instance_id, way)).job
    assert (await job_store.begin(purge)).held


async def test_contexts_come_back_as_they_were_when_others_have_changed_the_own_ones(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await with_own_context(instances, job_store, name)
    await rows.execute("UPDATE dbo.odsinstancecontexts SET contextvalue = '2030'")
    delete = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(delete)
    assert await job_store.finish_delete(delete)
    # What is not the instance's any more, another one may have.
    await with_own_context(instances, job_store, f"{name} next")
    came_back = await contexts_after_undelete(instances, job_store, queries, job.instance_id)
    assert came_back == {"schoolYear": "2030"}
    with pytest.raises(RefusedError, match="OdsInstanceContexts"):
        await instances.request_delete(job.instance_id, PURGE)


async def test_own_contexts_come_back_when_a_purge_has_failed_and_a_delete_follows(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    job = await with_own_context(instances, job_store, name)
    for _ in range(2):
        purge = (await instances.request_delete(job.instance_id, PURGE)).job
        assert (await job_store.begin(purge)).held
        await job_store.fail(purge, "Sessions do not end.")
    delete = (await instances.request_delete(job.instance_id)).job
    assert delete.rules.to_trash
    await job_store.begin(delete)
    assert await job_store.finish_delete(delete)
    came_back = await contexts_after_undelete(instances, job_store, queries, job.instance_id)
    assert came_back == {"schoolYear": "2027"}


async def test_own_contexts_are_forgotten_when_a_purge_was_to_do_that_and_has_failed(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    job = await with_own_context(instances, job_store, name)
    purge = (await instances.request_delete(job.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    await job_store.fail(purge, "Sessions do not end.")
    again = (await instances.request_delete(job.instance_id, PURGE)).job
    assert (await job_store.begin(again)).held
    assert await job_store.finish_delete(again)
    row = await row_of(queries, job)
    assert (row.status, row.is_in_trash, row.set_aside) == ("Deleted", False, None)
    assert await queries.contexts_of(job.ods_instance_id) == []


@pytest.mark.parametrize("way", [PURGE, _BACKED_UP], ids=["purge", "purge with a final backup"])
async def test_own_contexts_are_not_forgotten_by_a_detach_when_a_purge_has_failed(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str, way: Delete
) -> None:
    """The database stays in use. As the refusal says, the instance can be detached without the contexts."""
    job = await with_own_context(instances, job_store, name)
    purge = (await instances.request_delete(job.instance_id, way)).job
    assert (await job_store.begin(purge)).held
    await job_store.fail(purge, "Sessions do not end.")
    with pytest.raises(RefusedError, match="purge that has failed keeps OdsInstanceContexts"):
        await instances.request_delete(job.instance_id, Delete(Way.LEAVE))

    delete = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(delete)
    assert await job_store.finish_delete(delete)
    came_back = await contexts_after_undelete(instances, job_store, queries, job.instance_id)
    assert came_back == {"schoolYear": "2027"}
    await instances.change_attributes(job.instance_id, AttributeChanges(contexts={}))
    detach = (await instances.request_delete(job.instance_id, Delete(Way.LEAVE))).job
    assert (await job_store.begin(detach)).held


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "changed by others"])
async def test_purge_may_follow_a_failed_move_to_the_trash_when_that_keeps_own_contexts_alone(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str, *, is_own: bool
) -> None:
    job = await with_own_context(instances, job_store, name)
    if not is_own:
        await rows.execute("UPDATE dbo.odsinstancecontexts SET contextvalue = '2030'")
    delete = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(delete)
    await job_store.fail(delete, "Sessions do not end.")
    with pytest.raises(RefusedError, match="OdsInstanceContexts"):
        await instances.request_delete(job.instance_id, Delete(Way.LEAVE))
    if is_own:
        purge = (await instances.request_delete(job.instance_id, PURGE)).job
        assert (await job_store.begin(purge)).held
        assert await job_store.finish_delete(purge)
    else:
        with pytest.raises(RefusedError, match="OdsInstanceContexts"):
            await instances.request_delete(job.instance_id, PURGE)


async def test_parts_of_others_stay_when_those_of_an_instance_are_set_aside(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    first, deleted, last = [
        await bring_to(instances, job_store, "Completed", f"{name} {word}") for word in ("a", "b", "c")
    ]
    for year, job in enumerate((first, deleted, last), start=2027):
        await rows.execute(_CONTEXT.replace("2027", str(year)), job.ods_instance_id)
        await rows.execute(_DERIVATIVE, job.ods_instance_id)
    delete = (await instances.request_delete(deleted.instance_id)).job
    await job_store.begin(delete)
    for job, count in ((first, 1), (deleted, 0), (last, 1)):
        assert await contexts(rows, job) == count
        assert await rows.fetchval(_DERIVATIVES, job.ods_instance_id) == count
        assert ((await row_of(queries, job)).set_aside is None) == bool(count)
    kept = (await row_of(queries, deleted)).set_aside
    assert kept is not None
    assert [context["value"] for context in kept["contexts"]] == ["2028"]
    assert [derivative["type"] for derivative in kept["derivatives"]] == ["ReadReplica"]


async def test_database_is_looked_for_under_one_name_when_deletes_of_both_kinds_have_failed(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Delete_Failed", name)
    for delete in (PURGE, Delete(), PURGE):
        again = (await instances.request_delete(job.instance_id, delete)).job
        assert again.databases == [job.database, job.trash_database]
        await job_store.begin(again)
        await job_store.fail(again, "Sessions do not end.")


async def test_parts_are_set_aside_when_the_ods_instance_is_deleted(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    await rows.execute(_CONTEXT, job.ods_instance_id)
    ods_instances = OdsInstances(tenant.engine, instances, tenant.connection_strings)
    requested = await ods_instances.delete(job.ods_instance_id, "a client")
    assert requested is not None
    await job_store.begin(requested.job)
    assert await job_store.finish_delete(requested.job)
    row = await row_of(queries, job)
    assert (row.is_in_trash, row.database.trashed_by, await contexts(rows, job)) == (True, "a client", 0)
    undelete = (await instances.request_undelete(job.instance_id)).job
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert await contexts(rows, job) == 1


async def test_nothing_is_in_the_trash_when_there_was_no_database_to_keep(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    failed = await bring_to(instances, job_store, "Error", name)
    job = (await instances.request_delete(failed.instance_id)).job
    assert (job.rules.to_trash, job.published) == (True, False)  # there may be one all the same
    await job_store.begin(job)
    await job_store.finish_delete(job, is_lost=True)
    assert not (await row_of(queries, job)).is_in_trash
    with pytest.raises(InstanceNotFoundError):
        await instances.request_undelete(job.instance_id)


@pytest.mark.parametrize("state", ["Pending_Delete", "InProgress"])
async def test_name_is_free_when_its_instance_is_being_purged(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    trashed: InstanceJob,
    name: str,
    state: str,
) -> None:
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    if state == "InProgress":
        assert (await job_store.begin(purge)).held
    row = await row_of(queries, purge)
    assert (row.status, row.is_live, row.is_in_trash) == (state, False, True)
    assert (await instances.reserve(name, Template.MINIMAL)).job.database == trashed.database
    with pytest.raises(InstanceNotFoundError):
        await queries.instance(trashed.instance_id)
    with pytest.raises(RefusedError) as refused:
        await instances.request_undelete(trashed.instance_id)
    assert refused.value.status == state


async def test_purge_that_has_failed_can_be_retried_or_undone(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, trashed: InstanceJob
) -> None:
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    await job_store.fail(purge, "It carries another comment.")
    row = await row_of(queries, purge)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETE_FAILED, True)
    retry = (await instances.request_retry(trashed.instance_id)).job
    assert (await job_store.begin(retry)).held
    await job_store.fail(retry, "It carries another comment.")
    assert not await instances.is_purge_due()
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    assert (undelete.number, undelete.trash_database) == (purge.number + 1, trashed.trash_database)


@pytest.mark.parametrize("final_backup", [False, True])
@pytest.mark.parametrize("when", ["waits", "runs", "waits after a failure", "has lost its workflow"])
async def test_purge_is_neither_due_nor_retried_when_it_was_cancelled_but_granted_anew(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    cancellations: JobCancellations,
    trashed: InstanceJob,
    rows: asyncpg.Connection,
    when: str,
    final_backup: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    number = trashed.instance_id
    purge = (await instances.request_purge(number, final_backup=final_backup)).job
    if when != "waits":
        assert (await job_store.begin(purge)).held
    if when == "waits after a failure":
        await job_store.fail(purge, "It carries another comment.")
        purge = (await instances.request_retry(number)).job
    if when == "runs":
        for _ in range(2):  # the step may be repeated
            assert await job_store.fail(purge, CANCELLED, cancelled=True)
        assert not await job_store.is_done(purge)
        assert not await job_store.finish_purge(purge), "a late try must not pass for one that has dropped it"
    elif when == "has lost its workflow":
        assert await cancellations.cancel_lost(purge)
    else:
        waiting = await queries.job(purge.job_id)
        assert waiting is not None
        assert await cancellations.cancel_waiting(waiting)
    row = await row_of(queries, purge)
    assert (row.status, row.is_in_trash, row.database.purge_after) == (InstanceStatus.DELETED, True, None)
    job = await queries.job(purge.job_id)
    assert job is not None
    reason = CANCELLED_WITHOUT_WORKFLOW if when == "has lost its workflow" else CANCELLED
    assert (job.status, job.error_message) == (JobStatus.ERROR, reason)
    await rows.execute("UPDATE adminapi.databases SET purgeafter = localtimestamp - interval '1 year'")
    assert not await instances.is_purge_due()
    assert await job_store.unfinished_deletes({}) == []
    assert not (await job_store.begin(replace(purge, attempt=row.attempt + 1))).held
    with pytest.raises(InstanceNotFoundError):
        await instances.request_retry(number)
    again = (await instances.request_purge(number, final_backup=final_backup)).job
    assert (again.number, again.trash_database) == (purge.number + 1, trashed.trash_database)
    assert (await job_store.begin(again)).held
    assert await job_store.fail(again, CANCELLED, cancelled=True)
    undelete = (await instances.request_undelete(number)).job
    assert (await job_store.begin(undelete)).held
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)


@pytest.mark.parametrize(
    ("state", "delete", "drops"),
    [
        ("Completed", Delete(Way.TRASH), False),
        ("Completed", Delete(Way.LEAVE), False),
        ("Completed", PURGE, True),
        ("Completed", _BACKED_UP, True),  # to the trash, from where a purge follows
        ("Deleted", PURGE, True),
        ("Deleted", _BACKED_UP, True),
    ],
)
async def test_instance_tells_whether_a_retry_drops_its_database(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    name: str,
    state: str,
    delete: Delete,
    drops: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    brought = await bring_to(instances, job_store, state, name)
    job = (await instances.request_delete(brought.instance_id, delete)).job
    assert not drops_at_retry(await row_of(queries, job)), "nothing has failed yet"
    assert (await job_store.begin(job)).held
    await job_store.fail(job, "The server refuses.")
    assert drops_at_retry(await row_of(queries, job)) is drops


async def test_purge_is_finished_when_a_drop_had_begun_before_it_was_cancelled(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, trashed: InstanceJob
) -> None:
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    assert await job_store.fail(purge, CANCELLED, cancelled=True)
    half_dropped = {str(trashed.trash_database): trashed.mark}
    assert await job_store.unfinished_deletes({"another": trashed.mark}) == []
    (unfinished,) = await job_store.unfinished_deletes(half_dropped)
    assert await job_store.release(unfinished) is None, "it is whole"
    due = await job_store.release(unfinished, half_dropped)
    assert due is not None
    assert (due.job_id, due.attempt) == (purge.job_id, 2)
    assert (await job_store.begin(due)).held
    assert await job_store.finish_purge(due)
    assert not (await row_of(queries, purge)).is_in_trash
    assert await job_store.unfinished_deletes(half_dropped) == []
    assert await job_store.release(due) is None


@pytest.mark.parametrize("state", ["live", "trash"])
@pytest.mark.parametrize("called_off", ["cancelled", "abandoned", "cancelled again", "held"])
async def test_drop_that_was_called_off_is_not_finished_when_the_instance_had_another_database_before_a_reset(
    instances: InstanceStore,
    job_store: JobStore,
    tenant: Tenant,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
    state: str,
    called_off: str,
) -> None:
    """That would be dropped with it, and the client may have called the drop off for it."""
    if state == "live":
        undelete = (await instances.request_undelete(trashed.instance_id)).job
        assert (await job_store.begin(undelete)).held
        assert await job_store.finish_undelete(undelete, "of no use")
    await add_version(rows, trashed.instance_id)
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    match called_off:
        case "cancelled":
            assert await job_store.fail(purge, CANCELLED, cancelled=True)
        case "abandoned":
            assert await job_store.fail(purge, "The server is away.", outage=True)
            assert await tenant.cancellations.give_up(purge)
        case "cancelled again":
            assert await job_store.fail(purge, "The server is away.", outage=True)
            assert await job_store.release(purge)
            row = await queries.job(purge.job_id)
            assert row is not None
            assert await tenant.cancellations.cancel_waiting(row)
        case _:
            assert await job_store.fail(purge, "The server is away.", outage=True)
            await tenant.cancellations.hold_drops()
    name = trashed.database if state == "live" else str(trashed.trash_database)
    half_dropped = {name: trashed.mark}
    assert await job_store.unfinished_deletes(half_dropped) == []
    assert await job_store.release(purge, half_dropped) is None
    assert await job_store.release(replace(purge, attempt=2), half_dropped) is None


async def test_purge_is_recorded_as_done_when_it_was_cancelled_after_its_drop_and_nothing_else_was_requested(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
) -> None:
    assert not await job_store.follow_drop(trashed), "it is a delete"
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    assert not await job_store.follow_drop(purge), "it runs"
    assert await job_store.fail(purge, CANCELLED, cancelled=True)
    assert not await job_store.follow_drop(replace(purge, attempt=2))
    assert await job_store.follow_drop(purge)
    assert await job_store.follow_drop(purge)
    assert not (await row_of(queries, purge)).is_in_trash
    assert await job_store.is_done(purge)
    count = "SELECT count(*) FROM adminapi.audit WHERE method = 'PURGE' AND instanceid = $1"
    assert await rows.fetchval(count, purge.instance_id) == 1
    await rows.execute("DELETE FROM adminapi.audit")


async def test_instance_comes_back_when_it_was_requested_back_before_its_cancelled_purge_is_looked_at(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, trashed: InstanceJob
) -> None:
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert (await job_store.begin(purge)).held
    assert await job_store.fail(purge, CANCELLED, cancelled=True)
    await instances.request_undelete(trashed.instance_id)
    assert not await job_store.follow_drop(purge)
    await job_store.explain_failure(purge, "Its database was gone.")
    row = await row_of(queries, purge)
    assert row.has_database_in_trash
    assert (row.status, row.error_message) == (InstanceStatus.PENDING, None)


async def test_instance_is_in_the_trash_again_when_its_undelete_is_cancelled_or_fails(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    cancellations: JobCancellations,
    trashed: InstanceJob,
    name: str,
) -> None:
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    with pytest.raises(NameTakenError):
        await instances.reserve(name, Template.MINIMAL)
    job = await queries.job(undelete.job_id)
    assert job is not None
    assert await cancellations.cancel_waiting(job)
    assert (await row_of(queries, undelete)).is_in_trash
    again = (await instances.request_undelete(trashed.instance_id)).job
    assert (await job_store.begin(again)).held
    await job_store.fail(again, "The server is away.")
    row = await row_of(queries, again)
    assert (row.is_in_trash, row.error_message) == (True, "The server is away.")
    assert [left.job_id for left in await job_store.failed_jobs([again.mark])] == [again.job_id]
    await instances.reserve(name, Template.MINIMAL)


@pytest.mark.parametrize("ends", ["fails", "is cancelled"])
async def test_instance_has_its_old_name_when_its_undelete_under_another_one_came_to_nothing(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    cancellations: JobCancellations,
    trashed: InstanceJob,
    rows: asyncpg.Connection,
    name: str,
    ends: str,
) -> None:
    other = (await instances.reserve(name, Template.MINIMAL)).job
    await let_time_pass(rows)
    undelete = (await instances.request_undelete(trashed.instance_id, f"{name} back")).job
    assert undelete.final_name == f"{name} back"
    for reserved in (name, f"{name} back"):  # both names are reserved meanwhile
        with pytest.raises(NameTakenError):
            await instances.reserve(reserved, Template.MINIMAL)
    if ends == "fails":
        assert (await job_store.begin(undelete)).held
        await job_store.fail(undelete, "The server is away.")
    else:
        job = await queries.job(undelete.job_id)
        assert job is not None
        assert await cancellations.cancel_waiting(job)
    row = await row_of(queries, trashed)
    assert (row.is_in_trash, row.name, row.database_name) == (True, name, trashed.database)
    if ends == "fails":  # the database may still have the other name
        (left,) = await job_store.failed_jobs([undelete.mark])
        assert left.final_database == undelete.final_database
        with pytest.raises(RefusedError, match="not undone yet"):
            await instances.request_purge(trashed.instance_id)
        await job_store.end_undo(undelete)
    await instances.reserve(f"{name} back", Template.MINIMAL)  # free again
    with pytest.raises(RefusedError, match="already exists"):
        await instances.request_undelete(trashed.instance_id)
    await job_store.begin(other)
    await job_store.fail(other, "no")
    failed = (await instances.request_delete(other.instance_id)).job
    await job_store.begin(failed)
    await job_store.finish_delete(failed)
    again = (await instances.request_undelete(trashed.instance_id)).job
    assert (again.final_name, again.final_database) == (name, trashed.database)
    assert (await job_store.begin(again)).held
    assert await job_store.finish_undelete(again, CONNECTION_STRING)
    row = await row_of(queries, trashed)
    assert (row.name, row.new_name, row.new_database_name) == (name, None, None)


@pytest.mark.parametrize("new_name", [None, "back"])
async def test_derivative_leads_to_the_database_of_its_instance_after_an_undelete(
    tenant: Tenant, instances: InstanceStore, rows: asyncpg.Connection, name: str, new_name: str | None
) -> None:
    job = await bring_to(instances, tenant.jobs, "Completed", name)
    await rows.execute(_DERIVATIVE, job.ods_instance_id)
    strings = tenant.connection_strings
    await rows.execute(
        "UPDATE dbo.odsinstancederivatives SET connectionstring = $1", strings.encrypted(job.database)
    )
    deletion = (await instances.request_delete(job.instance_id)).job
    await tenant.jobs.begin(deletion)
    await tenant.jobs.finish_delete(deletion)
    if new_name is not None:
        await instances.reserve(name, Template.MINIMAL)
        await let_time_pass(rows)
    undelete = (await instances.request_undelete(job.instance_id, new_name)).job
    await tenant.jobs.begin(undelete)
    assert await tenant.jobs.finish_undelete(undelete, CONNECTION_STRING)
    text = await rows.fetchval("SELECT connectionstring FROM dbo.odsinstancederivatives")
    assert strings.local_database(text) == undelete.final_database


async def test_instance_comes_back_under_another_name_once_no_cache_leads_to_who_has_its_own(
    instances: InstanceStore,
    job_store: JobStore,
    trashed: InstanceJob,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    number = trashed.instance_id
    undelete = (await instances.request_undelete(number, f"{name} back")).job  # its own is free
    await instances.reserve(name, Template.MINIMAL)
    begun = await job_store.begin(undelete)
    assert begun.refusal is not None
    assert "Wait 10 minutes, then undelete it" in begun.refusal
    await job_store.fail(undelete, begun.refusal)
    await job_store.end_undo(undelete)
    for passed, told in ((0, "Wait 10 minutes,"), (9, "Wait 1 minute,")):
        await let_time_pass(rows, passed)
        with pytest.raises(RefusedError, match="The ODS/API may still have that in its cache") as refused:
            await instances.request_undelete(number, f"{name} back")
        assert refused.value.next_step.startswith(told)
    await let_time_pass(rows, 1)
    granted = (await instances.request_undelete(number, f"{name} back")).job
    assert (await job_store.begin(granted)).refusal is None
    assert await job_store.finish_undelete(granted, CONNECTION_STRING)


async def test_own_name_stays_reserved_when_an_instance_has_come_back_under_another(
    instances: InstanceStore, job_store: JobStore, trashed: InstanceJob, rows: asyncpg.Connection, name: str
) -> None:
    undelete = (await instances.request_undelete(trashed.instance_id, f"{name} back")).job
    assert (await job_store.begin(undelete)).refusal is None
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    with pytest.raises(NameTakenError, match=r"Wait 10 minutes, or choose another name\."):
        await instances.reserve(name, Template.MINIMAL)
    await let_time_pass(rows)
    await instances.reserve(name, Template.MINIMAL)


async def test_new_name_of_an_undelete_is_free_for_a_rename_when_it_has_failed(
    instances: InstanceStore, job_store: JobStore, trashed: InstanceJob, name: str
) -> None:
    other = await bring_to(instances, job_store, "Completed", f"{name} other")
    undelete = (await instances.request_undelete(trashed.instance_id, f"{name} back")).job
    with pytest.raises(NameTakenError):
        await instances.request_rename(other.instance_id, f"{name} back")
    await job_store.begin(undelete)
    await job_store.fail(undelete, "The server is away.")
    rename = (await instances.request_rename(other.instance_id, f"{name} back")).job
    await job_store.begin(rename)
    assert await job_store.finish_rename(rename, CONNECTION_STRING)


async def test_undelete_is_refused_when_another_instance_has_its_ods_instance_id(
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
    name: str,
) -> None:
    other = await bring_to(instances, job_store, "Completed", f"{name} other")
    await rows.execute(
        "UPDATE adminapi.dbinstances SET odsinstanceid = $1 WHERE id = $2",
        trashed.ods_instance_id,
        other.instance_id,
    )
    with pytest.raises(RefusedError, match="OdsInstanceId") as refused:
        await instances.request_undelete(trashed.instance_id)
    assert "another name" not in refused.value.next_step


async def test_undelete_does_not_begin_again_when_its_name_was_taken_since_it_failed(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    trashed: InstanceJob,
    name: str,
) -> None:
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    assert (await job_store.begin(undelete)).held
    await job_store.fail(undelete, "The server is away.")
    retry = (await job_store.failed_jobs([undelete.mark]))[0]
    await instances.reserve(name, Template.MINIMAL)
    signalled = InstanceJob(**{**vars(retry), "attempt": retry.attempt + 1})
    assert not (await job_store.begin(signalled)).held
    assert (await row_of(queries, undelete)).is_in_trash


@pytest.mark.parametrize("state", ["Pending", "Completed", "Error", "Delete_Failed", "Pending_Delete"])
async def test_undelete_is_refused_when_the_instance_is_not_deleted(
    instances: InstanceStore, job_store: JobStore, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    with pytest.raises(RefusedError, match="cannot be undeleted"):
        await instances.request_undelete(job.instance_id)


@pytest.mark.parametrize("state", ["Pending", "Completed", "Error", "Delete_Failed", "Pending_Delete"])
async def test_purge_from_the_trash_is_refused_when_the_instance_is_not_deleted(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str, state: str
) -> None:
    job = await bring_to(instances, job_store, state, name)
    with pytest.raises(RefusedError, match="not in the trash") as refused:
        await instances.request_purge(job.instance_id)
    assert "purge=true" in refused.value.next_step
    assert (await row_of(queries, job)).job_number == job.number


async def test_purge_from_the_trash_drops_nothing_when_the_instance_has_come_back(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, trashed: InstanceJob
) -> None:
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    for _ in range(2):  # while it comes back, and when it is there
        with pytest.raises(RefusedError, match="not in the trash"):
            await instances.request_purge(trashed.instance_id)
        await job_store.begin(undelete)
        assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert (await row_of(queries, trashed)).status == InstanceStatus.COMPLETED


async def test_purge_from_the_trash_is_the_purge_of_before_and_of_nothing_in_the_end(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, trashed: InstanceJob
) -> None:
    purge = (await instances.request_purge(trashed.instance_id)).job
    assert (purge.operation, purge.trash_database) == (Operation.PURGE, trashed.trash_database)
    with pytest.raises(RefusedError, match="cannot be purged"):
        await instances.request_purge(trashed.instance_id)
    await job_store.begin(purge)
    assert await job_store.finish_purge(purge)
    for unknown in (trashed.instance_id, 0):
        with pytest.raises(InstanceNotFoundError):
            await instances.request_purge(unknown)
    await rows.execute("DELETE FROM adminapi.audit")


async def test_one_request_is_granted_when_undelete_and_purge_are_requested_many_times_at_once(
    instances: InstanceStore, trashed: InstanceJob
) -> None:
    number = trashed.instance_id
    answers = await asyncio.gather(
        *(instances.request_undelete(number) for _ in range(4)),
        *(instances.request_delete(number, PURGE) for _ in range(4)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, RefusedError)]
    granted = [answer for answer in answers if not isinstance(answer, Exception)]
    # A purge that comes after an undelete was requested finds a live instance with a job.
    assert (len(granted), len(refused)) == (1, 7)


async def test_what_is_due_longest_is_purged_first_and_what_has_failed_is_left(
    instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection, name: str
) -> None:
    jobs = [await bring_to(instances, job_store, "Deleted", f"{name} {number}") for number in range(5)]
    assert not await instances.is_purge_due()
    for age, job in enumerate(jobs[:4]):
        await rows.execute(
            "UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) - $1::interval"
            " WHERE instanceid = $2",
            timedelta(days=age + 1),
            job.instance_id,
        )
    assert await instances.is_purge_due()
    first = await instances.request_due_purges(2, [])
    assert [one.instance.id for one in first] == [jobs[3].instance_id, jobs[2].instance_id]
    assert {one.job.operation for one in first} == {Operation.PURGE}
    for one in first:
        await job_store.begin(one.job)
    await job_store.fail(first[0].job, "It carries another comment.")
    assert await job_store.finish_purge(first[1].job)
    second = await instances.request_due_purges(10, [])
    assert [one.instance.id for one in second] == [jobs[1].instance_id, jobs[0].instance_id]
    entries = await rows.fetch("SELECT instanceid FROM adminapi.audit WHERE method = 'PURGE'")
    assert [entry["instanceid"] for entry in entries] == [jobs[2].instance_id]
    await rows.execute("DELETE FROM adminapi.audit")


@pytest.mark.parametrize(
    ("dropped", "begins"), [(True, "Dropped ods_trash_"), (False, "Found no "), (None, "Purged ods_trash_")]
)
async def test_audit_says_whether_a_database_was_dropped(
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
    *,
    dropped: bool | None,
    begins: str,
) -> None:
    purge = (await instances.request_purge(trashed.instance_id)).job
    await job_store.begin(purge)
    assert await job_store.finish_purge(purge, dropped=dropped)
    title = await rows.fetchval("SELECT title FROM adminapi.audit WHERE method = 'PURGE'")
    assert title.startswith(begins)
    assert trashed.database in title
    await rows.execute("DELETE FROM adminapi.audit")


async def test_protected_instance_is_not_purged_when_it_was_protected_while_it_was_undeleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    trashed: InstanceJob,
) -> None:
    """No other way leads there: what is in the trash cannot be protected, what is protected not deleted."""
    number = trashed.instance_id
    with pytest.raises(InstanceNotFoundError):
        await instances.change_attributes(number, PROTECTED)
    purge = (await instances.request_delete(number, PURGE)).job
    with pytest.raises(InstanceNotFoundError):
        await instances.change_attributes(number, PROTECTED)
    await job_store.begin(purge)
    await job_store.fail(purge, "Sessions do not end.")
    undelete = (await instances.request_undelete(number)).job
    await instances.change_attributes(number, PROTECTED)
    await job_store.begin(undelete)
    await job_store.fail(undelete, "The server is away.")
    await job_store.end_undo(undelete)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = timezone('utc', now()) WHERE reason = 'deleted'"
    )
    assert not await instances.is_purge_due()
    assert await instances.request_due_purges(20, []) == []
    with pytest.raises(RefusedError, match="protected") as refused:
        await instances.request_delete(number, PURGE)
    assert f"undelete it (`ods instance undelete {number}`)" in refused.value.next_step

    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = false")
    purge = (await instances.request_delete(number, PURGE)).job
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    for _ in range(2):  # the step may be repeated
        assert not (await job_store.begin(purge)).held
    row = await row_of(queries, purge)
    assert (row.status, row.is_in_trash) == (InstanceStatus.DELETE_FAILED, True)
    assert "protected" in str(row.error_message)
    with pytest.raises(RefusedError, match="protected"):
        await instances.request_retry(number)
    assert (await instances.request_undelete(number)).job.trash_database == trashed.trash_database


@pytest.mark.parametrize("way", [Way.TRASH, Way.LEAVE, Way.DROP])
async def test_delete_is_refused_and_the_instance_as_before_when_it_was_protected_past_the_service(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
    way: Way,
) -> None:
    created = await bring_to(instances, job_store, "Completed", name)
    delete = (await instances.request_delete(created.instance_id, Delete(way, "a client"))).job
    with pytest.raises(RefusedError, match="cannot be protected"):
        await instances.change_attributes(created.instance_id, PROTECTED)
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true")
    assert not (await job_store.begin(delete)).held
    row = await row_of(queries, created)
    assert (row.status, row.database.purge_after, row.database.trashed_by) == ("Completed", None, None)
    assert "protected" in str(row.error_message)
    assert await queries.ods_instance(created.ods_instance_id) is not None


async def test_attributes_come_back_when_the_instance_does(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    wanted = AttributeChanges(description="A pilot", labels={"stage": "live"}, contexts={"year": "2027"})
    created = (await instances.reserve(name, Template.MINIMAL, wanted)).job
    await job_store.begin(created)
    await job_store.finish_create(replace(created, template_generation=4), CONNECTION_STRING)
    (before,) = await queries.contexts_of(created.ods_instance_id)
    delete = (await instances.request_delete(created.instance_id)).job
    await job_store.begin(delete)
    await job_store.finish_delete(delete)
    undelete = (await instances.request_undelete(created.instance_id)).job
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    row = await queries.instance(created.instance_id)
    assert (row.description, row.labels, row.database.template_generation) == (
        "A pilot",
        {"stage": "live"},
        4,
    )
    (after,) = await queries.contexts_of(created.ods_instance_id)
    assert (after.id, after.key, after.value) == (before.id, "year", "2027")


async def test_context_is_free_in_the_trash_and_kept_for_the_instance_while_it_is_undeleted(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    year = AttributeChanges(contexts={"YEAR": "2027"})
    await rows.execute(_CONTEXT, job.ods_instance_id)
    delete = (await instances.request_delete(job.instance_id)).job
    await job_store.begin(delete)
    await job_store.finish_delete(delete)
    other = (await instances.reserve(f"{name} other", Template.MINIMAL, year)).job
    with pytest.raises(RefusedError, match="has just these contexts: 'year' = '2027'") as refused:
        await instances.request_undelete(job.instance_id)
    assert "`ods instance contexts`" in refused.value.next_step
    assert (await row_of(queries, job)).is_in_trash
    await instances.change_attributes(other.instance_id, AttributeChanges(contexts={}))

    undelete = (await instances.request_undelete(job.instance_id)).job
    with pytest.raises(InvalidError):
        await instances.change_attributes(other.instance_id, year)
    assert (await job_store.begin(undelete)).held
    with pytest.raises(InvalidError):
        await instances.change_attributes(other.instance_id, year)
    await job_store.fail(undelete, "The server is away.")
    await job_store.end_undo(undelete)
    await instances.change_attributes(other.instance_id, year)
    again = replace(undelete, attempt=2)
    assert not (await job_store.begin(again)).held
    await instances.change_attributes(other.instance_id, AttributeChanges(contexts={}))

    undelete = (await instances.request_undelete(job.instance_id)).job
    assert (await job_store.begin(undelete)).held
    await rows.execute("INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES (1000000, 'Elsewhere')")
    await rows.execute(_CONTEXT, 1000000)  # another product asks nothing
    with pytest.raises(ContextTakenError, match="The instance 'Elsewhere' has just"):
        await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert await queries.ods_instance(job.ods_instance_id) is None
    await rows.execute("DELETE FROM dbo.odsinstancecontexts")
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    assert await contexts(rows, job) == 1


async def test_context_is_not_given_twice_when_an_instance_comes_back_that_was_never_recorded_as_created(
    instances: InstanceStore, job_store: JobStore, queries: InstanceQueries, name: str
) -> None:
    """Its create had published the database, and failed: another ODS instance had its name."""
    year = AttributeChanges(contexts={"year": "2027"})
    failed = (await instances.reserve(name, Template.MINIMAL, year)).job
    await job_store.begin(failed)
    await job_store.fail(failed, "An ODS instance has the name.")
    delete = (await instances.request_delete(failed.instance_id)).job
    await job_store.begin(delete)
    assert await job_store.finish_delete(delete)
    other = (await instances.reserve(f"{name} other", Template.MINIMAL, year)).job
    with pytest.raises(RefusedError, match="has just these contexts: 'year' = '2027'"):
        await instances.request_undelete(failed.instance_id)
    await instances.change_attributes(other.instance_id, AttributeChanges(contexts={}))

    undelete = (await instances.request_undelete(failed.instance_id)).job
    assert (await job_store.begin(undelete)).held
    assert await job_store.finish_undelete(undelete, CONNECTION_STRING)
    (back,) = await queries.contexts_of(failed.ods_instance_id)
    assert (back.key, back.value) == ("year", "2027")


async def test_purge_knows_the_job_that_has_put_the_database_into_the_trash(
    instances: InstanceStore, job_store: JobStore, trashed: InstanceJob
) -> None:
    purge = (await instances.request_delete(trashed.instance_id, PURGE)).job
    assert purge.trash_database == trashed.trash_database
    assert not await job_store.finish_delete(purge)


async def test_instance_is_not_purged_when_it_was_requested_back_in_vain(
    instances: InstanceStore, job_store: JobStore, trashed: InstanceJob, rows: asyncpg.Connection
) -> None:
    undelete = (await instances.request_undelete(trashed.instance_id)).job
    await rows.execute(_DUE)
    await job_store.begin(undelete)
    await job_store.fail(undelete, "The server is away.")
    assert not await instances.is_purge_due()
    assert not await instances.request_due_purges(10, [])
    await job_store.end_undo(undelete)
    assert not await instances.is_purge_due()
    assert (await instances.request_delete(trashed.instance_id, PURGE)).job.operation is Operation.PURGE


@pytest.mark.parametrize("trash", [timedelta(days=7), timedelta()], ids=["a trash", "no trash any more"])
async def test_time_in_the_trash_begins_with_the_end_of_the_delete_when_it_was_retried_late(
    instances: InstanceStore,
    job_store: JobStore,
    rows: asyncpg.Connection,
    engine: AsyncEngine,
    queries: InstanceQueries,
    name: str,
    trash: timedelta,
) -> None:
    """It was requested as one that can be undone, and says that a retry drops nothing."""
    failed = await bring_to(instances, job_store, "Delete_Failed", name)
    await rows.execute(_DUE)
    assert not drops_at_retry(await row_of(queries, failed))
    instances, job_store = stores(engine, trash=trash)
    retry = (await instances.request_retry(failed.instance_id)).job
    assert (await job_store.begin(retry)).held
    assert await job_store.finish_delete(retry)
    assert not await instances.is_purge_due()
    left = await rows.fetchval("SELECT purgeafter - timezone('utc', now()) FROM adminapi.databases")
    assert left > timedelta(days=6)


async def test_trash_is_empty_when_a_copy_of_the_registry_has_become_an_installation_of_its_own(
    instances: InstanceStore,
    queries: InstanceQueries,
    engine: AsyncEngine,
    trashed: InstanceJob,
) -> None:
    page = Page("Id")
    assert [row.id for row in await queries.trash(page)] == [trashed.instance_id]
    await instances.installation.renew()
    await instances.installation.confirm(await instances.installation.state())
    assert await queries.trash(page) == []
    assert str((await row_of(queries, trashed)).mark) != trashed.mark
    with pytest.raises(InstanceNotFoundError):
        await InstanceStore.request_undelete(instances, trashed.instance_id)
