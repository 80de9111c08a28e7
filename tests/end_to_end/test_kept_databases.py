"""What a client has kept stays, also when the registry is put back to where its drop still waited."""

from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import COMMENT, created, drifts_of, names, read, reconcile, sweep, write
from tests.put_back_rows import JOBS, put_rows_back, remember_rows

pytestmark = pytest.mark.usefixtures("workers")

DROP, BACKED_UP = Delete(Way.DROP), Delete(Way.DROP, final_backup=True)

Request = Callable[[Operator, InstanceJob], Awaitable[InstanceJob]]


async def drop(operator: Operator, job: InstanceJob) -> InstanceJob:
    return (await operator.instances.request_delete(job.instance_id, DROP)).job


async def drop_after_backup(operator: Operator, job: InstanceJob) -> InstanceJob:
    return (await operator.instances.request_delete(job.instance_id, BACKED_UP)).job


async def purge(operator: Operator, job: InstanceJob) -> InstanceJob:
    assert await operator.ended(await operator.delete(job)) is JobStatus.COMPLETED
    return (await operator.instances.request_purge(job.instance_id)).job


async def reset(operator: Operator, job: InstanceJob) -> InstanceJob:
    return (await operator.instances.request_reset(job.instance_id)).job


async def database_of(admin: asyncpg.Connection, job: InstanceJob) -> tuple[str, int]:
    """The name and the OID of the only database that the instance has."""
    (name,) = await names(admin, job.mark)
    return name, await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", name)


@pytest.mark.parametrize("request_drop", [drop, drop_after_backup, purge, reset])
@pytest.mark.parametrize("kept", ["at once", "by the next pass", "by a failure", "by Temporal"])
async def test_database_stays_whose_drop_was_not_done_when_the_registry_is_put_back_to_before_that(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    settings: Settings,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    postgres: EmbeddedPostgres,
    name: str,
    request_drop: Request,
    kept: str,
) -> None:
    job = await created(operator, name)
    waiting = await request_drop(operator, job)
    found = await database_of(admin, job)
    await remember_rows(rows, JOBS)
    if kept == "at once":
        assert (await api.post(f"/v2/jobs/{waiting.job_id}/cancel")).is_success
    elif kept in {"by a failure", "by Temporal"}:
        assert (await tenant.jobs.begin(waiting)).held
        assert await tenant.jobs.fail(waiting, "It has failed.", cancelled=kept == "by Temporal")
        await reconcile(temporal, settings)
    else:  # the server did not answer the API, which has cancelled the job all the same
        row = await operator.queries.job(waiting.job_id)
        assert row is not None
        assert await tenant.cancellations.cancel_waiting(row)
        await reconcile(temporal, settings)
    is_in_use = request_drop is not purge
    if is_in_use:
        await write(postgres, job, "written since")
    if kept not in {"by a failure", "by Temporal"}:
        status = InstanceStatus.COMPLETED if is_in_use else InstanceStatus.DELETED
        assert (await operator.instance(job)).status == status
        assert not await drifts_of(tenant, found[0])

    await put_rows_back(rows, JOBS)
    await sweep(temporal, settings)
    assert await operator.ended(waiting) is JobStatus.ERROR
    await reconcile(temporal, settings)
    assert await database_of(admin, job) == found
    assert await drifts_of(tenant, found[0])
    if is_in_use:
        assert await read(postgres, job) == ["written since"]


async def test_replaced_database_stays_of_a_protected_instance_when_the_registry_is_put_back_to_before_that(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    replacing = await reset(operator, job)
    await operator.starter.start(replacing)
    assert await operator.ended(replacing) is JobStatus.COMPLETED
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    both = await names(admin, job.mark)
    before = [await admin.fetchval(COMMENT, one) for one in both]
    await remember_rows(rows, JOBS)
    answer = await api.patch(f"/v2/dbInstances/{job.instance_id}", json={"protected": True})
    assert answer.is_success
    assert not {await admin.fetchval(COMMENT, one) for one in both} & {*before}
    await put_rows_back(rows, JOBS)
    await rows.execute(
        "UPDATE adminapi.databases SET purgeafter = now() - interval '1 day' WHERE reason = 'replaced'"
    )
    assert "no purges because of" in await reconcile(temporal, settings)
    assert await names(admin, job.mark) == both


async def test_kept_database_can_be_dropped_when_a_client_wants_it_again(
    api: httpx.AsyncClient, operator: Operator, admin: asyncpg.Connection, name: str
) -> None:
    job = await created(operator, name)
    for _ in range(2):
        waiting = await drop(operator, job)
        assert (await api.post(f"/v2/jobs/{waiting.job_id}/cancel")).is_success
    wanted = await drop(operator, job)
    await operator.starter.start(wanted)
    assert await operator.ended(wanted) is JobStatus.COMPLETED
    assert await names(admin, job.mark) == []


async def test_comment_stays_on_which_registry_and_server_do_not_agree(
    api: httpx.AsyncClient,
    operator: Operator,
    temporal: Client,
    settings: Settings,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    name: str,
) -> None:
    job = await created(operator, name)
    waiting = await drop(operator, job)
    revision = await rows.fetchval("SELECT id FROM adminapi.databaserevisions WHERE state = 'confirmed'")
    await rows.execute("UPDATE adminapi.databaserevisions SET id = gen_random_uuid()")
    before = await admin.fetchval(COMMENT, job.database)
    assert (await api.post(f"/v2/jobs/{waiting.job_id}/cancel")).is_success
    await reconcile(temporal, settings)
    assert await admin.fetchval(COMMENT, job.database) == before
    await rows.execute("UPDATE adminapi.databaserevisions SET id = $1 WHERE state = 'confirmed'", revision)
    await reconcile(temporal, settings)
    assert await admin.fetchval(COMMENT, job.database) != before
    assert not await rows.fetch("SELECT 1 FROM adminapi.databaserevisions WHERE state = 'due'")
