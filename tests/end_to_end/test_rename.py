"""Renames on real servers: what is renamed, and what stays when it cannot be."""

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.databases import DatabaseActivities
from activities.job_fence import ConcurrencyLimit
from ods.embedded.postgres import EmbeddedPostgres
from ods.embedded.seeding import SERVICE_ROLE
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.recovery.adoption import AdoptionRefusedError, DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import RECOVER, DriftKind
from ods.recovery.plan import StepKind
from ods.recovery.recovery import Recovery
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import NameTakenError, RefusedError
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import COMMENT, names, reconcile
from tests.servers import service_dsn, session

pytestmark = pytest.mark.usefixtures("workers")


async def test_instance_goes_on_under_its_old_name_until_retried_when_the_new_database_name_is_taken(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    before = await operator.queries.ods_instance(created.ods_instance_id)
    foreign = f"EdFi_Ods_{name} new_Minimal".replace(" ", "_")
    async with session(service_dsn(postgres, "postgres")) as owner:
        await owner.execute(f'CREATE DATABASE "{foreign}"')

    job = await operator.rename(created, f"{name} new")
    assert await operator.ended(job) is JobStatus.ERROR
    instance = await operator.instance(job)
    assert (instance.status, instance.name) == (InstanceStatus.ERROR, name)
    assert f"A database named '{foreign}' exists" in (instance.error_message or "")
    assert await names(admin, job.mark) == [created.database]
    after = await operator.queries.ods_instance(created.ods_instance_id)
    assert before is not None
    assert after is not None
    assert (after.name, after.connection_string) == (before.name, before.connection_string)
    async with session(postgres.dsn(created.database)) as user:
        assert await user.fetchval("SELECT count(*) FROM pg_class") > 0

    await admin.execute(f'DROP DATABASE "{foreign}"')
    await operator.temporal("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    assert (await operator.instance(job)).name == f"{name} new"
    assert await names(admin, job.mark) == [foreign]


async def test_instance_is_renamed_as_the_reason_says_when_its_ods_instance_was_removed(
    operator: Operator, tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", created.ods_instance_id)
    job = await operator.rename(created, f"{name} new")
    assert await operator.ended(job) is JobStatus.ERROR
    advice = f"`ods instance adopt {created.instance_id} --database {created.database}`, then retry."
    assert advice in ((await operator.instance(job)).error_message or "")
    assert (await DatabaseAdoption(tenant).adopt(created.instance_id, created.database)).adopted
    await operator.temporal("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
    assert await operator.reached(job, {JobStatus.COMPLETED}) is JobStatus.COMPLETED
    renamed = await operator.queries.ods_instance(created.ods_instance_id)
    assert renamed is not None
    assert renamed.name == f"{name} new"


@pytest.mark.parametrize(
    ("drops", "cancelled", "goes_on"), [(False, False, True), (False, True, False), (True, False, False)]
)
async def test_no_signal_brings_back_what_was_cancelled_or_drops_when_its_instance_is_given_a_database(
    operator: Operator, tenant: Tenant, name: str, *, drops: bool, cancelled: bool, goes_on: bool
) -> None:
    """The `retry` may have been sent before that."""
    created = await operator.create(name)
    await operator.ended(created)
    if drops:
        job = (await operator.instances.request_delete(created.instance_id, Delete(Way.DROP))).job
    else:
        job = (await operator.instances.request_rename(created.instance_id, f"{name} new")).job
    assert (await tenant.jobs.begin(job)).held
    assert await tenant.jobs.fail(job, "The job was cancelled.", cancelled=cancelled)
    assert (await DatabaseAdoption(tenant).adopt(created.instance_id, created.database)).adopted
    assert await tenant.jobs.position(job) is None  # what is late of it changes nothing
    attempt = await tenant.jobs.next_attempt(job)
    assert attempt is not None
    assert attempt.request != job.request
    assert (await tenant.jobs.begin(attempt)).held is goes_on
    if drops:  # a request does
        assert (await tenant.jobs.begin((await operator.instances.request_retry(job.instance_id)).job)).held


async def test_database_is_in_the_trash_when_a_failed_rename_is_followed_by_a_delete(
    operator: Operator, postgres: EmbeddedPostgres, admin: asyncpg.Connection, name: str
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    async with session(postgres.dsn(created.database)):  # a superuser's: it cannot be ended
        job = await operator.rename(created, f"{name} new")
        assert await operator.ended(job) is JobStatus.ERROR
        assert "superusers" in ((await operator.instance(job)).error_message or "")
    deletion = await operator.delete(job)  # handed over to the workflow that waits
    assert await operator.ended(deletion) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [deletion.trash_database]
    assert await operator.queries.ods_instance(job.ods_instance_id) is None


async def renamed_on_the_server(operator: Operator, tenant: Tenant, created: InstanceJob) -> InstanceJob:
    """A rename that is done on the server and is not recorded."""
    job = (await operator.instances.request_rename(created.instance_id, f"{created.name} new")).job
    assert (await tenant.jobs.begin(job)).held
    await ActivityEnvironment().run(DatabaseActivities(tenant, ConcurrencyLimit(1)).rename, job)
    return job


async def routed_to(tenant: Tenant, rows: asyncpg.Connection, job: InstanceJob) -> str | None:
    its = "SELECT connectionstring FROM dbo.odsinstances WHERE odsinstanceid = $1"
    return tenant.connection_strings.local_database(await rows.fetchval(its, job.ods_instance_id))


async def test_next_rename_waits_until_a_failed_one_is_undone(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    """The undo has found no server: the next rename would forget which name the database has."""
    created = await operator.create(name)
    await operator.ended(created)
    job = await renamed_on_the_server(operator, tenant, created)
    assert await tenant.jobs.fail(job, "The job was cancelled.")
    with pytest.raises(RefusedError, match="not undone yet"):
        await operator.instances.request_rename(job.instance_id, f"{name} other")
    assert "1 leftovers removed" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [created.database]
    other = await operator.rename(job, f"{name} other")
    assert await operator.ended(other) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == [other.final_database]
    assert await routed_to(tenant, rows, job) == other.final_database
    assert "0 leftovers removed" in await reconcile(temporal, settings)


_IN_THE_WAY = {
    "protected": "UPDATE adminapi.managed_instances SET isprotected = true WHERE id = $1",
    "in use": "INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)"
    " SELECT 1, odsinstanceid FROM adminapi.dbinstances WHERE id = $1",
}


@pytest.mark.parametrize("why", _IN_THE_WAY)
async def test_instance_goes_on_when_an_admin_api_s_delete_overtakes_a_rename_and_is_refused(
    operator: Operator,
    tenant: Tenant,
    temporal: Client,
    settings: Settings,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    why: str,
) -> None:
    created = await operator.create(name)
    await operator.ended(created)
    await rows.execute(_IN_THE_WAY[why], created.instance_id)
    job = await renamed_on_the_server(operator, tenant, created)
    requested = "UPDATE adminapi.dbinstances SET status = 'Pending_Delete' WHERE id = $1"
    await rows.execute(requested, created.instance_id)
    connection_string = tenant.connection_strings.encrypted(job.final_database)
    assert not await tenant.jobs.finish_rename(job, connection_string)
    await tenant.jobs.follow_admin_api()
    (delete,) = await tenant.jobs.waiting_jobs(0, 10)
    await operator.starter.start(delete)
    assert await operator.ended(delete) is JobStatus.ERROR
    await reconcile(temporal, settings)
    assert await names(admin, job.mark) == [created.database]
    assert await routed_to(tenant, rows, job) == created.database
    assert "0 leftovers removed" in await reconcile(temporal, settings)
    row = await operator.instance(job)
    assert (row.status, row.new_name) == (InstanceStatus.COMPLETED, None)
    assert why in (row.error_message or "")
    again = await operator.rename(job, f"{name} again")
    assert await operator.ended(again) is JobStatus.COMPLETED


@pytest.mark.parametrize("is_marked", [False, True])
async def test_what_leads_there_follows_and_the_old_name_is_reserved_when_a_database_has_another_by_hand(
    operator: Operator,
    tenant: Tenant,
    admin: asyncpg.Connection,
    rows: asyncpg.Connection,
    name: str,
    *,
    is_marked: bool,
) -> None:
    """It was renamed, or restored without its comment."""
    created = await operator.create(name)
    await operator.ended(created)
    replica = tenant.connection_strings.encrypted(created.database)
    await rows.execute(
        "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
        " VALUES ($1, 'ReadReplica', $2)",
        created.ods_instance_id,
        replica,
    )
    await rows.execute(
        "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES ('by a client', $1)", replica
    )
    other = f"EdFi_Ods_{name} by hand_Minimal".replace(" ", "_")
    await admin.execute(f'ALTER DATABASE "{created.database}" RENAME TO "{other}"')
    if is_marked:
        assert [step.database for step in (await Recovery(tenant).apply()).done] == [other]
    else:
        await admin.execute(f'COMMENT ON DATABASE "{other}" IS NULL')
        assert (await DatabaseAdoption(tenant).adopt(created.instance_id, other)).adopted
    assert await routed_to(tenant, rows, created) == other
    for leading in (
        "SELECT connectionstring FROM dbo.odsinstancederivatives",
        "SELECT connectionstring FROM dbo.odsinstances WHERE name = 'by a client'",
    ):
        assert tenant.connection_strings.local_database(await rows.fetchval(leading)) == other
    await rows.execute("UPDATE adminapi.dbinstances SET name = $2 WHERE id = $1", created.instance_id, "else")
    await rows.execute("UPDATE dbo.odsinstances SET name = 'else' WHERE name <> 'by a client'")
    with pytest.raises(NameTakenError, match=r"may still have that in its cache"):
        await operator.instances.reserve(name, "Minimal")


async def test_instance_has_its_data_again_when_its_server_was_put_back_to_before_a_rename(
    operator: Operator,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    """And its registry, on another server, was not."""
    created = await operator.create(name)
    await operator.ended(created)
    async with session(service_dsn(postgres, created.database)) as inside:
        await inside.execute("CREATE TABLE treasure AS SELECT 42 AS answer")
    before = await admin.fetchval(COMMENT, created.database)
    renamed = await operator.rename(created, f"{name} new")
    await operator.ended(renamed)
    await admin.execute(f'ALTER DATABASE "{renamed.final_database}" RENAME TO "{created.database}"')
    await admin.execute(f"COMMENT ON DATABASE \"{created.database}\" IS '{before}'")

    (drift,) = [
        one
        for one in await DriftDetector(tenant).detect()
        if one.kind is DriftKind.CHANGED_BY_HAND and name in one.subject
    ]
    assert f"'{created.database}' (" in drift.explanation
    assert drift.remedy == RECOVER
    other = f"EdFi_Ods_{name}_restored_Minimal".replace(" ", "_")
    await admin.execute(f'CREATE DATABASE "{other}" OWNER {SERVICE_ROLE}')
    try:
        with pytest.raises(AdoptionRefusedError, match=f"'{created.database}' carries the mark"):
            await DatabaseAdoption(tenant).adopt(created.instance_id, other)
    finally:
        await admin.execute(f'DROP DATABASE "{other}"')

    assert [step.kind for step in (await Recovery(tenant).apply()).done] == [StepKind.HAND_OVER]
    assert await names(admin, created.mark) == [renamed.final_database]
    assert not [one for one in await DriftDetector(tenant).detect() if name in one.subject]
    again = await operator.rename(created, f"{name} again")
    assert await operator.ended(again) is JobStatus.COMPLETED
    async with session(service_dsn(postgres, again.final_database)) as inside:
        assert await inside.fetchval("SELECT answer FROM treasure") == 42
