"""Instances that are being copied: what the registry refuses meanwhile, and until when."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ods.model.arguments import Way
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.adoptions import DatabaseName
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import InstanceError, InvalidError, RefusedError
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, bring_to

MODES = pytest.mark.parametrize("mode", list(CopyMode))
ROUNDS = 30

Ask = Callable[[Tenant, InstanceJob], Awaitable[Any]]


async def _adopt(tenant: Tenant, source: InstanceJob) -> None:
    database = DatabaseName(f"{source.database}_other", CONNECTION_STRING)
    async with tenant.adoptions.adopting(source.instance_id, database, marked=True):
        pass


REFUSED: dict[str, Ask] = {
    "delete": lambda tenant, source: tenant.instances.request_delete(source.instance_id),
    "purge": lambda tenant, source: tenant.instances.request_delete(source.instance_id, Delete(Way.DROP)),
    "detach": lambda tenant, source: tenant.instances.request_delete(source.instance_id, Delete(Way.LEAVE)),
    "rename": lambda tenant, source: tenant.instances.request_rename(
        source.instance_id, f"{source.name} new"
    ),
    "adopt": _adopt,
    "closed copy": lambda tenant, source: copied(tenant.instances, source, CopyMode.CLOSED, "second"),
}


@pytest.fixture
async def source(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    return await bring_to(instances, job_store, "Completed", name)


async def copied(
    instances: InstanceStore, source: InstanceJob, mode: CopyMode, suffix: str = "copy"
) -> InstanceJob:
    """Request a copy."""
    origin = CopyOrigin(source.instance_id, mode)
    return (await instances.reserve(f"{source.name} {suffix}", source.template, origin=origin)).job


async def status_of(queries: InstanceQueries, job: InstanceJob) -> str:
    row = await queries.any_instance(job.instance_id)
    assert row is not None
    return row.status


@MODES
@pytest.mark.parametrize("request_", REFUSED)
@pytest.mark.parametrize("begun", [False, True])
async def test_request_is_refused_and_names_the_copy_when_the_instance_is_being_copied(
    tenant: Tenant,
    source: InstanceJob,
    mode: CopyMode,
    request_: str,
    *,
    begun: bool,
) -> None:
    copy = await copied(tenant.instances, source, mode)
    if begun:
        assert (await tenant.jobs.begin(copy)).held
    with pytest.raises(
        RefusedError, match=f"the instance {copy.instance_id}, '{copy.name}', is made of it"
    ) as it:
        await REFUSED[request_](tenant, source)
    assert copy.job_id in it.value.next_step
    assert it.value.status == "Completed"


async def test_two_online_copies_are_made_at_once_and_a_closed_one_excludes_others(
    instances: InstanceStore, source: InstanceJob
) -> None:
    first, second = [await copied(instances, source, CopyMode.ONLINE, word) for word in ("a", "b")]
    assert first.instance_id != second.instance_id
    other = await bring_closed(instances, source)
    assert isinstance(other, RefusedError)


async def bring_closed(instances: InstanceStore, source: InstanceJob) -> InstanceError | None:
    try:
        await copied(instances, source, CopyMode.CLOSED, "c")
    except InstanceError as error:
        return error
    return None


async def test_online_copy_is_refused_when_the_instance_is_copied_closed(
    instances: InstanceStore, source: InstanceJob
) -> None:
    copy = await copied(instances, source, CopyMode.CLOSED)
    with pytest.raises(RefusedError, match=f"the instance {copy.instance_id},"):
        await copied(instances, source, CopyMode.ONLINE, "other")


End = Callable[[Tenant, JobStore, InstanceJob], Awaitable[Any]]


async def _complete(_: Tenant, jobs: JobStore, copy: InstanceJob) -> None:
    assert (await jobs.begin(copy)).held
    assert await jobs.finish_create(copy, CONNECTION_STRING)


async def _fail(_: Tenant, jobs: JobStore, copy: InstanceJob) -> None:
    assert (await jobs.begin(copy)).held
    assert await jobs.fail(copy, "It could not be copied.")


async def _cancel(tenant: Tenant, _: JobStore, copy: InstanceJob) -> None:
    row = await tenant.queries.job(copy.job_id)
    assert row is not None
    assert await tenant.cancellations.cancel_waiting(row)


async def _cancel_lost(tenant: Tenant, jobs: JobStore, copy: InstanceJob) -> None:
    assert (await jobs.begin(copy)).held
    cancellations: JobCancellations = tenant.cancellations
    assert await cancellations.cancel_lost(copy)


@MODES
@pytest.mark.parametrize("end", [_complete, _fail, _cancel, _cancel_lost])
async def test_instance_is_free_again_when_the_job_of_its_copy_has_ended(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    source: InstanceJob,
    mode: CopyMode,
    end: End,
) -> None:
    copy = await copied(instances, source, mode)
    await end(tenant, job_store, copy)
    assert (await instances.request_rename(source.instance_id, f"{source.name} new")).job.number == 2


async def test_instance_is_held_on_when_the_workflow_of_its_copy_was_lost(
    instances: InstanceStore, job_store: JobStore, source: InstanceJob
) -> None:
    copy = await copied(instances, source, CopyMode.CLOSED)
    assert (await job_store.begin(copy)).held
    assert await job_store.release(copy) is not None
    with pytest.raises(RefusedError):
        await instances.request_delete(source.instance_id)


async def test_copy_can_be_changed_as_any_instance_when_it_is_done(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, source: InstanceJob
) -> None:
    copy = await copied(instances, source, CopyMode.ONLINE)
    await _complete(tenant, job_store, copy)
    rename = (await instances.request_rename(copy.instance_id, f"{copy.name} new")).job
    assert (await job_store.begin(rename)).held
    assert (await instances.request_delete(source.instance_id)).job.number == 2


async def test_failed_copy_is_retried_only_when_its_source_can_be_copied(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    source: InstanceJob,
) -> None:
    copy = await copied(instances, source, CopyMode.CLOSED)
    await _fail(tenant, job_store, copy)
    rename = (await instances.request_rename(source.instance_id, f"{source.name} new")).job
    with pytest.raises(RefusedError, match="cannot be copied in state Pending"):
        await instances.request_retry(copy.instance_id)
    # An operator's `retry` signal does not pass the API.
    assert not (await job_store.begin(replace(copy, attempt=2))).held
    assert await status_of(queries, copy) == "Error"

    assert (await job_store.begin(rename)).held
    assert await job_store.finish_rename(rename, CONNECTION_STRING)
    again = (await instances.request_retry(copy.instance_id)).job
    assert (again.attempt, again.origin) == (2, copy.origin)
    with pytest.raises(RefusedError):
        await instances.request_delete(source.instance_id)
    assert (await job_store.begin(again)).held


async def test_signal_of_the_operator_holds_the_source_again_when_it_can_be_copied(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, source: InstanceJob
) -> None:
    copy = await copied(instances, source, CopyMode.ONLINE)
    await _fail(tenant, job_store, copy)
    for _ in range(2):
        assert (await job_store.begin(replace(copy, attempt=2))).held
    with pytest.raises(RefusedError):
        await instances.request_delete(source.instance_id)


async def test_failed_copy_is_not_retried_when_its_source_is_deleted(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, source: InstanceJob
) -> None:
    copy = await copied(instances, source, CopyMode.ONLINE)
    await _fail(tenant, job_store, copy)
    deletion = (await instances.request_delete(source.instance_id)).job
    assert (await job_store.begin(deletion)).held
    assert await job_store.finish_delete(deletion)
    with pytest.raises(RefusedError, match="is gone"):
        await instances.request_retry(copy.instance_id)
    assert not (await job_store.begin(replace(copy, attempt=2))).held


async def test_delete_of_an_admin_api_fails_and_the_instance_stays_when_it_is_being_copied(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    source: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    copy = await copied(instances, source, CopyMode.CLOSED)
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Pending_Delete', operation = 'Delete', jobnumber = 2,"
        ' attempt = 0, arguments = \'{"keep": false, "backup_first": false}\' WHERE id = $1',
        source.instance_id,
    )
    await job_store.follow_admin_api()
    (deletion,) = [
        job for job in await job_store.waiting_jobs(0, 10) if job.instance_id == source.instance_id
    ]
    assert not (await job_store.begin(deletion)).held
    assert await status_of(queries, source) == "Completed"
    assert await queries.ods_instance(source.ods_instance_id) is not None
    assert (await job_store.begin(copy)).held


async def test_copy_or_delete_is_granted_but_never_both_when_they_are_requested_at_once(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    rows: asyncpg.Connection,
    name: str,
) -> None:
    granted = []
    for number in range(ROUNDS):
        source = await bring_to(instances, job_store, "Completed", f"{name} {number}")
        requests: list[Awaitable[Any]] = [
            copied(instances, source, CopyMode.ONLINE),
            instances.request_delete(source.instance_id),
        ]
        outcomes = await asyncio.gather(*requests[:: 1 if number % 2 else -1], return_exceptions=True)
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {RefusedError}
        held = await rows.fetchval(
            "SELECT count(*) FROM adminapi.managed_instances"
            " WHERE (arguments #>> '{origin,instance_id}')::int = $1",
            source.instance_id,
        )
        deleted = await status_of(queries, source) == "Pending_Delete"
        assert held + deleted == 1
        granted.append(deleted)
    assert {True, False} == set(granted)


async def test_one_closed_copy_is_granted_when_several_are_requested_at_once(
    instances: InstanceStore, source: InstanceJob
) -> None:
    outcomes = await asyncio.gather(
        *(copied(instances, source, CopyMode.CLOSED, f"c{number}") for number in range(8)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedError)]
    assert len(refused) == 7


async def test_rename_and_copy_do_not_wait_for_each_other_when_they_want_one_name(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    for number in range(ROUNDS):
        source = await bring_to(instances, job_store, "Completed", f"{name} {number}")
        outcomes = await asyncio.gather(
            copied(instances, source, CopyMode.ONLINE),
            instances.request_rename(source.instance_id, f"{source.name} copy"),
            return_exceptions=True,
        )
        faults = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(faults) == 1
        assert isinstance(faults[0], InstanceError)


async def test_copy_is_refused_when_its_name_is_too_long_for_the_template_of_the_source(
    instances: InstanceStore, job_store: JobStore, source: InstanceJob, rows: asyncpg.Connection
) -> None:
    template = "T" * 40
    await rows.execute(
        "UPDATE adminapi.managed_instances SET databasetemplate = $1 WHERE id = $2",
        template,
        source.instance_id,
    )
    with pytest.raises(InvalidError) as raised:
        await copied(instances, source, CopyMode.ONLINE, "of a long name indeed")
    assert raised.value.errors.keys() == {"Name"}
