"""Deletes that can be taken back, on real servers: through the API, by workers, and by the reconcile pass."""

import asyncio
from functools import partial
from typing import Literal

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from activities.passes import ReconcileActivities
from activities.statuses import StatusActivities
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus, Operation
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import RECOVER, DriftKind, Remedy, RemedyAction
from ods.recovery.plan import StepKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import InstallationNotConfirmedError, RefusedError
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import (
    created,
    drifts_of,
    names,
    purge_cancelled_after_drop,
    read,
    reconcile,
    sweep,
    write,
)
from tests.job_kinds import of_kind
from tests.postgres.instance_states import let_time_pass
from tests.postgres.postgres_inspection import comment_on, let_minutes_pass_in_trash, row_of
from tests.put_back_rows import JOBS, put_rows_back, remember_rows
from tests.servers import service_dsn, session

pytestmark = pytest.mark.usefixtures("workers")

TO_TRASH, PURGE = Delete(), Delete(Way.DROP)
CONTEXT = (
    "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
    " VALUES ($1, 'schoolYear', '2027') RETURNING odsinstancecontextid"
)
DERIVATIVE = (
    "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
    " VALUES ($1, 'ReadReplica', 'encrypted') RETURNING odsinstancederivativeid"
)


async def deleted(operator: Operator, job: InstanceJob, delete: Delete = TO_TRASH) -> InstanceJob:
    requested = await operator.instances.request_delete(job.instance_id, delete)
    await operator.starter.start(requested.job)
    assert await operator.ended(requested.job) is JobStatus.COMPLETED
    return requested.job


async def undelete(operator: Operator, job: InstanceJob, name: str | None = None) -> InstanceJob:
    requested = await operator.instances.request_undelete(job.instance_id, name)
    await operator.starter.start(requested.job)
    return requested.job


async def test_instance_is_as_before_when_its_delete_is_taken_back(
    operator: Operator,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    job = await created(operator, name)
    context = await rows.fetchval(CONTEXT, job.ods_instance_id)
    derivative = await rows.fetchval(DERIVATIVE, job.ods_instance_id)
    await rows.execute("UPDATE dbo.odsinstances SET instancetype = 'a district'")
    async with session(service_dsn(postgres, job.database)) as tenant:
        await tenant.execute("CREATE TABLE treasure AS SELECT 42 AS answer")
    before = await operator.instance(job)

    deletion = await deleted(operator, job, Delete(by="a client"))
    gone = await operator.instance(job)
    assert (gone.status, gone.is_in_trash, gone.database.trashed_by) == ("Deleted", True, "a client")
    assert await names(admin, job.mark) == [deletion.trash_database]
    for table in ("odsinstances", "odsinstancecontexts", "odsinstancederivatives"):
        assert await rows.fetchval(f"SELECT count(*) FROM dbo.{table}") == 0  # noqa: S608 - constants

    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    after = await operator.instance(job)
    assert (after.id, after.name, after.database_name) == (before.id, before.name, before.database_name)
    assert (after.status, after.ods_instance_id) == (InstanceStatus.COMPLETED, before.ods_instance_id)
    assert (after.set_aside, after.database.trashed_at, after.database.purge_after) == (None,) * 3
    assert await names(admin, job.mark) == [job.database]
    ods_instance = await operator.queries.ods_instance(job.ods_instance_id)
    assert ods_instance is not None
    assert (ods_instance.name, ods_instance.instance_type) == (name, "a district")
    (kept,) = await operator.queries.contexts_of(job.ods_instance_id)
    assert (kept.id, kept.key, kept.value) == (context, "schoolYear", "2027")
    (replica,) = await operator.queries.derivatives_of(job.ods_instance_id)
    assert (replica.id, replica.derivative_type) == (derivative, "ReadReplica")
    assert replica.connection_string == "encrypted"
    async with session(service_dsn(postgres, job.database)) as tenant:
        assert await tenant.fetchval("SELECT answer FROM treasure") == 42

    again = await deleted(operator, job)
    assert await names(admin, job.mark) == [again.trash_database]
    assert again.trash_database == deletion.trash_database


async def test_own_contexts_go_with_an_instance_that_is_purged_and_those_of_others_keep_it(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, rows: asyncpg.Connection, name: str
) -> None:
    own = [{"contextKey": "schoolYear", "contextValue": "2027"}]
    body = {"name": name, "databaseTemplate": "Minimal", "contexts": own}
    number = (await api.post("/v2/dbInstances", json=body)).json()["id"]
    job = await operator.queries.instance(number)

    async def has_status(status: InstanceStatus) -> bool:
        (row,) = await operator.queries.instances(offset=0, limit=1, instance_id=number)
        return row.status == status

    await wait_until(partial(has_status, InstanceStatus.COMPLETED), 30)
    other = {"odsInstanceId": number, "contextKey": "stage", "contextValue": "pilot"}
    given = (await api.post("/v2/odsInstanceContexts", json=other)).headers["location"].rpartition("/")[2]
    refused = await api.delete(f"/v2/dbInstances/{number}?purge=true")
    assert (refused.status_code, "OdsInstanceContexts" in refused.json()["detail"]) == (409, True)
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 2

    assert (await api.delete(f"/v2/odsInstanceContexts/{given}")).status_code == 200
    assert (await api.delete(f"/v2/dbInstances/{number}?purge=true")).status_code == 202
    await wait_until(partial(has_status, InstanceStatus.DELETED), 30)
    assert await names(admin, str(job.mark)) == []
    for table in ("odsinstances", "odsinstancecontexts"):
        assert await rows.fetchval(f"SELECT count(*) FROM dbo.{table}") == 0  # noqa: S608 - constants
    next_one = body | {"name": f"{name} next"}
    assert (await api.post("/v2/dbInstances", json=next_one)).status_code == 202


async def test_name_is_free_at_once_and_the_instance_comes_back_under_another(
    operator: Operator,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    api: httpx.AsyncClient,
    name: str,
) -> None:
    job = await created(operator, name)
    await deleted(operator, job)
    other = await created(operator, name)
    assert other.database == job.database
    path = f"/v2/dbInstances/{job.instance_id}/undelete"
    refused = await api.post(path)
    assert refused.status_code == 409
    assert f"An instance named '{name}' already exists." in refused.json()["detail"]
    assert "under another name" in refused.json()["nextStep"]

    refused = await api.post(path, json={"name": f"{name} back"})
    assert (refused.status_code, refused.json()["nextStep"]) == (409, "Wait 10 minutes, then undelete it.")
    kept = str((await operator.instance(job)).database.trash_name)
    await let_time_pass(rows)
    await let_minutes_pass_in_trash(admin, kept, 10)
    answer = await api.post(path, json={"name": f"{name} back"})
    assert answer.status_code == 202
    assert answer.json()["jobId"] == f"UndeleteInstanceJob-{job.ods_instance_id}-3"
    async with asyncio.timeout(30):
        while (await operator.instance(job)).status != InstanceStatus.COMPLETED:
            await asyncio.sleep(0.03)
    assert (await operator.instance(job)).name == f"{name} back"
    (database,) = await names(admin, job.mark)
    assert database == (await operator.instance(job)).database_name != job.database
    assert await names(admin, other.mark) == [other.database]


@pytest.mark.parametrize("copied", [False, True])
async def test_database_goes_back_to_the_trash_when_the_name_is_taken_before_the_undelete_ends(
    operator: Operator, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str, *, copied: bool
) -> None:
    """Also while there is a copy of it that was restored by hand with its comment."""
    job = await created(operator, name)
    copy = f"{job.database}_copy"
    if copied:
        await admin.execute(f'CREATE DATABASE "{copy}"')
        original = await row_of(admin, job.database)
        assert original is not None
        await comment_on(admin, copy, original["comment"])
    deletion = await deleted(operator, job)
    requested = (await operator.instances.request_undelete(job.instance_id)).job
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", name)  # another product's
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.ERROR
    async with asyncio.timeout(10):
        while (row := await operator.instance(job)).undo_due:
            await asyncio.sleep(0.01)
    its = await names(admin, job.mark)
    if copied:
        await admin.execute(f'DROP DATABASE "{copy}"')
        its.remove(copy)
    assert its == [deletion.trash_database]
    assert (row.is_in_trash, "already exists" in (row.error_message or "")) == (True, True)
    await rows.execute("DELETE FROM dbo.odsinstances")
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [job.database]


async def test_database_goes_back_to_the_trash_when_an_undelete_under_another_name_fails(
    operator: Operator, rows: asyncpg.Connection, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    deletion = await deleted(operator, job)
    requested = (await operator.instances.request_undelete(job.instance_id, f"{name} back")).job
    await rows.execute("INSERT INTO dbo.odsinstances (name) VALUES ($1)", f"{name} back")
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.ERROR
    async with asyncio.timeout(10):
        while (row := await operator.instance(job)).undo_due:
            await asyncio.sleep(0.01)
    assert await names(admin, job.mark) == [deletion.trash_database]
    assert (row.is_in_trash, row.name, row.database_name) == (True, name, job.database)
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [job.database]


async def test_one_undelete_is_granted_when_two_are_requested_at_once(
    operator: Operator, admin: asyncpg.Connection, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    await deleted(operator, job)
    path = f"/v2/dbInstances/{job.instance_id}/undelete"
    answers = await asyncio.gather(*(api.post(path) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    async with asyncio.timeout(30):
        while (await operator.instance(job)).status != InstanceStatus.COMPLETED:
            await asyncio.sleep(0.03)
    assert await names(admin, job.mark) == [job.database]


async def test_database_is_whole_or_gone_when_undelete_and_purge_are_requested_at_once(
    operator: Operator, admin: asyncpg.Connection, api: httpx.AsyncClient, name: str
) -> None:
    for number in range(6):
        job = await created(operator, f"{name} {number}")
        await deleted(operator, job)
        path = f"/v2/dbInstances/{job.instance_id}"
        requests = [api.post(f"{path}/undelete"), api.delete(f"{path}?purge=true")]
        if number % 2:
            requests.reverse()
        answers = await asyncio.gather(*requests)
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [202, 409], [answer.text for answer in answers]
        (granted,) = [answer.json()["jobId"] for answer in answers if answer.status_code == 202]
        async with asyncio.timeout(30):
            while (row := await operator.queries.job(granted)) is None or row.finished_at is None:
                await asyncio.sleep(0.01)
        is_back = granted.startswith("Undelete")
        assert await names(admin, job.mark) == ([job.database] if is_back else [])
        assert (await operator.instance(job)).is_live is is_back


async def test_nothing_comes_back_when_it_was_purged_dropped_or_left(
    operator: Operator, admin: asyncpg.Connection, api: httpx.AsyncClient, rows: asyncpg.Connection, name: str
) -> None:
    purged, dropped, left = [await created(operator, f"{name} {word}") for word in ("a", "b", "c")]
    await deleted(operator, purged)
    purge = await deleted(operator, purged, PURGE)
    assert purge.operation is Operation.PURGE
    await deleted(operator, dropped, PURGE)
    answer = await api.delete(f"/v2/dbInstances/{left.instance_id}?detach=true")
    assert (answer.status_code, answer.json()["databaseName"]) == (202, left.database)
    assert answer.json()["purgeAfter"] is None
    async with asyncio.timeout(30):
        while (await operator.instance(left)).status != InstanceStatus.DELETED:
            await asyncio.sleep(0.03)

    for job in (purged, dropped, left):
        assert await names(admin, job.mark) == []
        assert (await api.post(f"/v2/dbInstances/{job.instance_id}/undelete")).status_code == 404
        assert (await api.delete(f"/v2/dbInstances/{job.instance_id}?purge=true")).status_code == 404
    assert (await api.get("/v2/trash")).json() == []
    row = await admin.fetchrow("SELECT datallowconn FROM pg_database WHERE datname = $1", left.database)
    assert row is not None
    assert row["datallowconn"]
    await admin.execute(f'DROP DATABASE "{left.database}"')
    entry = await rows.fetchrow("SELECT * FROM adminapi.audit WHERE method = 'PURGE'")
    assert entry is not None
    assert (entry["instanceid"], entry["jobid"]) == (purged.instance_id, purge.job_id)
    assert purged.database in entry["title"]


async def test_live_database_stays_when_a_purge_was_meant_for_the_trash(
    operator: Operator, admin: asyncpg.Connection, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    await deleted(operator, job)
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED  # by another client
    refused = await api.delete(f"/v2/trash/{job.instance_id}")
    assert (refused.status_code, refused.json()["status"]) == (409, 409)
    assert "not in the trash" in refused.json()["detail"]
    assert await names(admin, job.mark) == [job.database]

    await deleted(operator, job)
    accepted = await api.delete(f"/v2/trash/{job.instance_id}")
    assert (accepted.status_code, accepted.json()["id"]) == (202, job.instance_id)
    purge = accepted.json()["jobId"]
    async with asyncio.timeout(30):
        while (row := await operator.queries.job(purge)) is None or row.finished_at is None:
            await asyncio.sleep(0.03)
    assert await names(admin, job.mark) == []
    assert (await api.delete(f"/v2/trash/{job.instance_id}")).status_code == 404
    assert (await api.delete("/v2/trash/987654")).status_code == 404


async def lost_undelete(
    operator: Operator, tenant: Tenant, job: InstanceJob, name: str | None = None
) -> InstanceJob:
    """An undelete that is done on the server and not recorded; its worker is gone."""
    lost = (await operator.instances.request_undelete(job.instance_id, name)).job
    assert (await operator.jobs.begin(lost)).held
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).undelete, lost)
    return lost


@pytest.mark.parametrize("new_name", [None, "another name"], ids=["its name", "another name"])
async def test_next_request_waits_until_an_undelete_is_undone_that_was_cancelled(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    name: str,
    new_name: str | None,
) -> None:
    """The database is out of the trash by then: a purge would leave it open, or its name be forgotten."""
    job = await created(operator, name)
    trashed = await deleted(operator, job)
    assert await tenant.cancellations.cancel_lost(await lost_undelete(operator, tenant, job, new_name))
    with pytest.raises(RefusedError, match="not undone yet"):
        await operator.instances.request_purge(job.instance_id)
    with pytest.raises(RefusedError, match="not undone yet"):
        await operator.instances.request_undelete(job.instance_id, "a third name")
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [trashed.trash_database]
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [job.database]


@pytest.mark.parametrize("new_name", [None, "another name"], ids=["its name", "another name"])
async def test_same_undelete_goes_on_with_one_that_was_cancelled(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, name: str, new_name: str | None
) -> None:
    """It needs no undo, which can be impossible, as where the registry was put back since."""
    job = await created(operator, name)
    await deleted(operator, job)
    lost = await lost_undelete(operator, tenant, job, new_name)
    assert await tenant.cancellations.cancel_lost(lost)
    assert await operator.ended(await undelete(operator, job, new_name)) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [lost.final_database]


async def recovered(tenant: Tenant) -> list[StepKind]:
    """Recover as drift and reasons advise; returns what was done, after which nothing is left."""
    outcome = await Recovery(tenant).apply()
    assert (outcome.refused, outcome.plan.is_empty) == ([], True)
    return [step.kind for step in outcome.done]


async def purge_ended(operator: Operator, job: InstanceJob) -> JobStatus:
    purge = (await operator.instances.request_purge(job.instance_id)).job
    await operator.starter.start(purge)
    return await operator.ended(purge)


_Restored = Literal["before the request", "after the request", "while it ran"]


@pytest.mark.parametrize(
    ("restored", "ends"),
    [
        ("before the request", "cancelled"),
        ("before the request", "failed"),
        ("after the request", "cancelled"),
        ("while it ran", "cancelled"),
    ],
)
async def test_data_stay_when_the_undelete_that_a_restored_registry_has_again_comes_to_nothing(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    name: str,
    restored: _Restored,
    ends: str,
) -> None:
    """It was done, and people use the instance, but the registry has forgotten that."""
    job = await created(operator, name)
    await deleted(operator, job)
    if restored == "before the request":
        await remember_rows(rows, JOBS)
    requested = (await operator.instances.request_undelete(job.instance_id)).job
    if restored == "while it ran":
        assert (await tenant.jobs.begin(requested)).held
    if restored != "before the request":
        await remember_rows(rows, JOBS)
    await operator.starter.start(requested)
    assert await operator.ended(requested) is JobStatus.COMPLETED
    await rows.execute("DELETE FROM dbo.odsinstances")
    await put_rows_back(rows, JOBS)
    if restored == "before the request":
        requested = (await operator.instances.request_undelete(job.instance_id)).job
    row = await operator.queries.job(requested.job_id)
    assert row is not None
    if ends == "failed":
        assert (await tenant.jobs.begin(requested)).held
        assert await tenant.jobs.fail(requested, "The server was away.", outage=True)
    elif (running := await tenant.cancellations.running_attempt(row)) is not None:
        assert await tenant.cancellations.cancel_lost(running)
    else:
        assert await tenant.cancellations.cancel_waiting(row)
    await reconcile(temporal, settings)
    there = await names(admin, job.mark)
    # What was done since is told from a crash only by the one that has begun twice.
    assert there == [requested.trash_database if restored == "while it ran" else job.database]
    if ends == "failed":  # what it may have done is never undone: the publication is another job's
        with pytest.raises(RefusedError):
            await operator.instances.request_purge(job.instance_id)
    else:
        assert await purge_ended(operator, job) is JobStatus.ERROR
    assert await names(admin, job.mark) == there
    remedies = [found.remedy for found in await DriftDetector(tenant).detect()]
    if restored == "while it ran":
        assert Remedy(RemedyAction.UNDELETE, job.instance_id) in remedies
        assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    else:  # its publication is one that the registry does not know
        assert RECOVER in remedies
        assert await recovered(tenant) == [StepKind.TAKE_BACK]
    assert await names(admin, job.mark) == [job.database]
    await deleted(operator, job)
    assert await purge_ended(operator, job) is JobStatus.COMPLETED


async def test_instance_without_a_database_can_be_purged_when_its_undelete_has_failed(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """And another instance has its name by then: nothing is there that could be put into the trash again."""
    job = await created(operator, name)
    trashed = await deleted(operator, job)
    await admin.execute(f'DROP DATABASE "{trashed.trash_database}"')
    await created(operator, name)
    await let_time_pass(rows)
    assert await operator.ended(await undelete(operator, job, f"{name} back")) is JobStatus.ERROR
    await reconcile(temporal, settings)
    purge = (await operator.instances.request_purge(job.instance_id)).job
    await operator.starter.start(purge)
    assert await operator.ended(purge) is JobStatus.COMPLETED


async def test_instance_without_its_database_can_be_purged_when_an_admin_api_has_deleted_it_once_more(
    operator: Operator, tenant: Tenant, admin: asyncpg.Connection, rows: asyncpg.Connection, name: str
) -> None:
    """Its database in the trash was dropped by hand, and an undelete has failed for that."""
    job = await created(operator, name)
    trashed = await deleted(operator, job)
    await admin.execute(f'DROP DATABASE "{trashed.trash_database}"')
    assert await operator.ended(await undelete(operator, job)) is JobStatus.ERROR
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1", job.instance_id
    )
    await tenant.jobs.follow_admin_api()
    assert await tenant.jobs.waiting_jobs(0, 10) == []
    assert (await operator.instance(job)).is_in_trash
    assert DriftKind.DATABASE_MISSING in await drifts_of(tenant, name)
    purge = (await operator.instances.request_purge(job.instance_id)).job
    await operator.starter.start(purge)
    assert await operator.ended(purge) is JobStatus.COMPLETED
    assert not (await operator.instance(job)).is_in_trash


@pytest.mark.parametrize("purge", [PURGE, Delete(Way.DROP, final_backup=True)])
@pytest.mark.parametrize("is_in_trash", [True, False])
async def test_instance_comes_back_when_an_admin_api_has_deleted_it_after_a_cancelled_purge(
    operator: Operator,
    rows: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    temporal: Client,
    settings: Settings,
    name: str,
    purge: Delete,
    *,
    is_in_trash: bool,
) -> None:
    job = await created(operator, name)
    await write(postgres, job, "precious")
    if is_in_trash:
        await deleted(operator, job)
    cancelled = (await operator.instances.request_delete(job.instance_id, purge)).job
    assert (await operator.jobs.begin(cancelled)).held
    assert await operator.jobs.fail(cancelled, "The job was cancelled.", cancelled=True)
    await rows.execute(
        "UPDATE adminapi.dbinstances SET status = 'PendingDelete' WHERE id = $1", job.instance_id
    )
    await sweep(temporal, settings)

    async def is_deleted() -> bool:
        return (await operator.instance(job)).status == InstanceStatus.DELETED

    await wait_until(is_deleted, 30)
    await reconcile(temporal, settings)
    gone = await operator.instance(job)
    assert gone.is_in_trash
    assert not (gone.goes_to_trash and gone.backup_first), "no purge follows"
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    assert await read(postgres, job) == ["precious"]


async def test_trash_is_listed_with_size_client_and_time(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    jobs = [await created(operator, f"{name} {word}") for word in ("a", "b")]
    for job in jobs:
        await api.delete(f"/v2/dbInstances/{job.instance_id}")
        async with asyncio.timeout(30):
            while (await operator.instance(job)).status != InstanceStatus.DELETED:
                await asyncio.sleep(0.01)
    listed = (await api.get("/v2/trash", params={"orderBy": "deletedAt", "direction": "desc"})).json()
    assert [one["id"] for one in listed] == [job.instance_id for job in reversed(jobs)]
    first = listed[0]
    assert first["name"] == jobs[1].name
    assert first["databaseName"].startswith("ods_trash_")
    assert first["sizeBytes"] > 1_000_000
    assert first["deletedBy"]
    assert first["purgeAfter"] > first["deletedAt"]
    assert len((await api.get("/v2/trash", params={"limit": 1, "offset": 1})).json()) == 1


async def test_what_is_due_is_purged_when_the_pass_comes_by(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    due, kept = [await created(operator, f"{name} {word}") for word in ("a", "b")]
    await deleted(operator, due)
    kept_in = await deleted(operator, kept)
    assert "0 purges" in await reconcile(temporal, settings)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE instanceid = $1",
        due.instance_id,
    )
    assert "1 purges" in await reconcile(temporal, settings)
    async with asyncio.timeout(30):
        while (await operator.instance(due)).database.trashed_at is not None:
            await asyncio.sleep(0.03)
    assert await names(admin, due.mark) == []
    assert await names(admin, kept.mark) == [kept_in.trash_database]


@pytest.mark.long
async def test_purge_is_done_when_it_was_cancelled_after_its_drop(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str
) -> None:
    """It was in the trash as before, by the registry, and nothing could bring it back."""
    job = await created(operator, name)
    await deleted(operator, job)
    purge = await purge_cancelled_after_drop(api, job)
    async with asyncio.timeout(30):
        while (await operator.instance(job)).is_in_trash:
            await asyncio.sleep(0.03)
    assert (await api.get(f"/v2/jobs/{purge}")).json()["status"] == JobStatus.COMPLETED
    assert (await api.get("/v2/trash")).json() == []
    assert await names(admin, job.mark) == []


@pytest.mark.long
async def test_instance_stays_in_the_trash_when_its_purge_is_cancelled_and_the_comment_is_another(
    operator: Operator, api: httpx.AsyncClient, tenant: Tenant, admin: asyncpg.Connection, name: str
) -> None:
    """No database carries its mark: that does not mean that it is gone."""
    job = await created(operator, name)
    deletion = await deleted(operator, job)
    await admin.execute(f'COMMENT ON DATABASE "{deletion.trash_database}" IS NULL')
    purge = (await operator.instances.request_purge(job.instance_id)).job
    assert (await tenant.jobs.begin(purge)).held
    assert await tenant.jobs.fail(purge, "The job was cancelled.", cancelled=True)
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).compensate, purge)
    assert (await operator.instance(job)).is_in_trash
    assert (await api.get(f"/v2/jobs/{purge.job_id}")).json()["status"] == JobStatus.ERROR
    await admin.execute(f'DROP DATABASE "{deletion.trash_database}"')


async def test_nothing_is_purged_when_the_clocks_of_registry_and_server_differ(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    job = await created(operator, name)
    deletion = await deleted(operator, job)
    assert not [one for one in await DriftDetector(tenant).detect() if one.kind is DriftKind.CLOCKS_DIFFER]
    database = await rows.fetchval("SELECT current_database()")
    await rows.execute(
        "CREATE SCHEMA skewed; CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz"
        " LANGUAGE sql AS $$SELECT pg_catalog.clock_timestamp() + interval '8 days'$$;"
        f'ALTER DATABASE "{database}" SET search_path = skewed, pg_catalog'
    )
    await tenant.engine.dispose()  # new connections see the clock of the registry in eight days
    assert await tenant.instances.is_purge_due()
    assert "no purges because of ClocksDiffer" in await reconcile(temporal, settings)
    assert "ClocksDiffer" in caplog.text
    assert await names(admin, job.mark) == [deletion.trash_database]
    (found,) = [one for one in await DriftDetector(tenant).detect() if one.kind is DriftKind.CLOCKS_DIFFER]
    assert "8 days" in found.explanation


async def test_nothing_is_purged_for_a_day_when_no_pass_has_run_for_days(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """As when the clock of the one machine was set ahead: the time in the trash seems to be over."""
    job = await created(operator, name)
    assert "no purges" not in await reconcile(temporal, settings)
    deletion = await deleted(operator, job)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = purgeafter - interval '8 days';"
        " UPDATE adminapi.installation SET passat = passat - interval '8 days'"
    )
    for _ in range(2):
        assert "no purges because of TimeGap registry" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [deletion.trash_database]
    (found,) = [one for one in await DriftDetector(tenant).detect() if one.kind is DriftKind.TIME_GAP]
    assert "Nothing is purged from the trash" in found.explanation
    await rows.execute("UPDATE adminapi.installation SET gapto = gapto - interval '1 day'")
    assert "0 purges" in await reconcile(temporal, settings)  # what fell due meanwhile stays for a week more
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = purgeafter - interval '7 days' WHERE reason = 'deleted'"
    )
    assert "1 purges" in await reconcile(temporal, settings)


async def test_nothing_is_purged_when_the_registry_is_a_copy_that_was_not_confirmed(
    operator: Operator,
    temporal: Client,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    deletion = await deleted(operator, job)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'deleted'"
    )
    starter = JobStarter(temporal, tenant.settings.registry_queue)

    async def is_open(_: InstanceJob) -> bool:
        return False

    passes = ReconcileActivities(
        tenant.begin_pass,
        tenant.jobs,
        tenant.server,
        DriftDetector(tenant).detect,
        is_open,
        starter.start,
        tenant.remove_template_leftovers,
        tenant.instances,
        tenant.versions,
        tenant.cancellations,
    )
    await rows.execute("UPDATE adminapi.installation SET registrydatabase = 1")
    tenant.instances.installation.forget()
    report = await ActivityEnvironment().run(passes.purge_due)
    assert (report.requested, str(report.withheld).split()[0]) == (0, "InstallationNotConfirmed")
    for request in (
        tenant.instances.request_due_purges(20, []),
        tenant.instances.request_purge(job.instance_id),
    ):
        with pytest.raises(InstallationNotConfirmedError):
            await request
    # A purge that the original has requested before the copy was made:
    await rows.execute(
        "UPDATE adminapi.dbinstances SET operation = 'Purge', state = 'Pending_Delete', jobnumber = 3,"
        " attempt = 0, arguments = '{\"backup_first\": false}'"
    )
    purge = of_kind(deletion, "Purge", number=3)
    statuses = StatusActivities(tenant)
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(statuses.begin, purge)
    await rows.execute("UPDATE adminapi.dbinstances SET state = 'InProgress', attempt = 1")
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).purge, purge)
    assert await names(admin, job.mark) == [deletion.trash_database]


async def test_nothing_is_purged_when_the_registry_is_of_yesterday(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job, other = [await created(operator, f"{name} {word}") for word in ("a", "b")]
    in_trash = await deleted(operator, job)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'deleted'"
    )
    await remember_rows(rows)
    await rows.execute("CREATE TABLE routed AS TABLE dbo.odsinstances")
    moved = await deleted(operator, other)
    await put_rows_back(rows)
    await rows.execute("INSERT INTO dbo.odsinstances SELECT * FROM routed; DROP TABLE routed")

    assert "no purges because of RegistryPutBack" in await reconcile(temporal, settings)
    found = await drifts_of(tenant, moved.trash_database)
    assert found[DriftKind.REGISTRY_PUT_BACK].remedy == RECOVER
    assert await names(admin, job.mark) == [in_trash.trash_database]

    assert await recovered(tenant) == [StepKind.DELETE]
    assert await names(admin, job.mark) == [in_trash.trash_database]
    assert await names(admin, other.mark) == [moved.trash_database]
    assert await operator.ended(await undelete(operator, other)) is JobStatus.COMPLETED
    assert await names(admin, other.mark) == [other.database]
    assert await admin.fetchval(_IS_OPEN, other.database)
    assert await drifts_of(tenant, f"{name} b", moved.trash_database) == {}


async def test_live_database_is_not_dropped_when_the_registry_is_of_before_its_create(
    operator: Operator,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    api: httpx.AsyncClient,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    name: str,
) -> None:
    """Cancelled before it begins by the registry, the create has failed there, and a purge would follow."""
    job = (await operator.instances.reserve(name, "Minimal")).job
    await remember_rows(rows, JOBS)
    await operator.starter.start(job)
    assert await operator.ended(job) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT 42 AS answer")
    await rows.execute("DELETE FROM dbo.odsinstances")
    await put_rows_back(rows, JOBS)
    assert (await api.post(f"/v2/jobs/{job.job_id}/cancel")).status_code == 202
    purge = (await operator.instances.request_delete(job.instance_id, PURGE)).job
    await operator.starter.start(purge)
    assert await operator.ended(purge) is JobStatus.ERROR
    assert "`ods recover`" in str((await operator.instance(job)).error_message)
    assert await names(admin, job.mark) == [job.database]

    assert await recovered(tenant) == [StepKind.HAND_OVER]
    trashed = await deleted(operator, job)
    assert await names(admin, job.mark) == [trashed.trash_database]
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, job.database)) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42


async def test_database_in_the_trash_is_reported_and_kept_when_the_registry_has_lost_its_instance(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    deletion = await deleted(operator, job)
    await rows.execute("DELETE FROM adminapi.dbinstances; DELETE FROM adminapi.jobstatuses")
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [deletion.trash_database]
    (told,) = (await drifts_of(tenant, deletion.trash_database)).values()
    assert (told.kind, told.remedy) == (DriftKind.REGISTRY_PUT_BACK, RECOVER)
    assert await recovered(tenant) == [StepKind.RECORD_DELETED]
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    back = await operator.instance(job)
    assert (back.name, back.status) == (name, "Completed")
    assert await names(admin, job.mark) == [job.database]
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED


_IS_OPEN = "SELECT datallowconn FROM pg_database WHERE datname = $1"


async def test_database_is_neither_copied_nor_dropped_when_its_delete_is_taken_back(
    operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    oid = await admin.fetchval(_OID, job.database)
    deletion = await deleted(operator, job)
    assert await admin.fetchval(_OID, deletion.trash_database) == oid
    assert await operator.ended(await undelete(operator, job)) is JobStatus.COMPLETED
    assert await admin.fetchval(_OID, job.database) == oid


_OID = "SELECT oid::int8 FROM pg_database WHERE datname = $1"


@pytest.mark.parametrize(
    "words",
    [
        ["PendingDelete"],
        ["DeleteInProgress"],
        ["PendingDelete", "DeleteInProgress"],
        ["PendingDelete", "DeleteInProgress", "DeleteError"],
        ["DeleteError"],
        ["Pending_Delete", "Delete_Failed"],
    ],
    ids=" ".join,
)
async def test_database_goes_to_the_trash_however_far_an_admin_api_says_that_its_delete_is(
    operator: Operator,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    words: list[str],
) -> None:
    """It has begun it and died, or failed: the reconcile pass goes on with it, or a client retries it."""
    job = await created(operator, name)
    for word in words:
        await rows.execute("UPDATE adminapi.dbinstances SET status = $1 WHERE id = $2", word, job.instance_id)
    if retried := (await operator.instance(job)).status == InstanceStatus.DELETE_FAILED:
        await operator.retry(job)
    await reconcile(temporal, settings)
    await temporal.get_workflow_handle(job.workflow_id).result()
    # A retry goes to the trash at once; what the pass meets waits for the next sweep.
    moved = (await operator.instance(job)).database.trash_name if retried else job.database
    assert await names(admin, job.mark) == [moved]
    async with asyncio.timeout(30):
        while (row := await operator.instance(job)).status != InstanceStatus.DELETED:
            await sweep(temporal, settings)
    assert (row.goes_to_trash, row.is_in_trash) == (True, True)
    assert await names(admin, job.mark) == [row.database.trash_name]
