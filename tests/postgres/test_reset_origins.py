"""Resets to copies and backups in the registry: what is held meanwhile, what is recorded, what is refused."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.arguments import Way
from ods.model.operations import Operation, Template
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin, TemplateOrigin
from ods.registry.backups.stored import StoredBackup
from ods.registry.installation import InstallationStore
from ods.registry.instances.attributes import AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.errors import (
    BackupRefusedError,
    InstanceError,
    InstanceNotFoundError,
    InvalidError,
    RefusedError,
)
from ods.registry.storage.models import DbInstance
from ods.settings.settings import VerifyPolicy
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, POLICY, bring_to

MODES = pytest.mark.parametrize("mode", list(CopyMode))
ROUNDS = 20

Ask = Callable[[InstanceStore, InstanceJob], Awaitable[Any]]
REFUSED: dict[str, Ask] = {
    "delete": lambda instances, source: instances.request_delete(source.instance_id),
    "purge": lambda instances, source: instances.request_delete(source.instance_id, Delete(Way.DROP)),
    "rename": lambda instances, source: instances.request_rename(source.instance_id, f"{source.name} new"),
    "reset": lambda instances, source: instances.request_reset(source.instance_id),
    "closed copy": lambda instances, source: instances.reserve(
        f"{source.name} c", source.template, origin=CopyOrigin(source.instance_id, CopyMode.CLOSED)
    ),
}


@pytest.fixture
def factory(engine: AsyncEngine) -> JobFactory:
    return JobFactory(InstallationStore(engine), POLICY)


@pytest.fixture
def instances(engine: AsyncEngine, factory: JobFactory) -> InstanceStore:
    return InstanceStore(engine, factory, timedelta(days=7))


@pytest.fixture
def job_store(engine: AsyncEngine, factory: JobFactory) -> JobStore:
    return JobStore(engine, factory, timedelta(days=7))


@pytest.fixture
async def target(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The instance that is reset."""
    return await bring_to(instances, job_store, "Completed", f"{name} target")


@pytest.fixture
async def source(instances: InstanceStore, job_store: JobStore, name: str) -> InstanceJob:
    """The instance that is copied, of another template."""
    job = (await instances.reserve(f"{name} source", Template.SAMPLE)).job
    assert (await job_store.begin(job)).held
    assert await job_store.finish_create(replace(job, template_generation=7), CONNECTION_STRING)
    return job


@pytest.fixture(autouse=True)
async def _registry_of_others(rows: asyncpg.Connection) -> AsyncIterator[None]:
    """What other tests do not expect is removed."""
    yield
    await rows.execute(
        "DELETE FROM adminapi.databases WHERE reason = 'replaced'; DELETE FROM adminapi.backups"
    )


@pytest.fixture
async def backup(instances: InstanceStore, job_store: JobStore, source: InstanceJob) -> str:
    """A backup of the source that is stored."""
    job = (await instances.request_backup(source.instance_id, "requested")).job
    assert (await job_store.begin(job)).held
    now = datetime.now(UTC)
    stored = StoredBackup(
        *(str(uuid.uuid4()), "file:///backups/1", 10, 20, "0" * 64, "1" * 64, "18.6"),
        encrypted=False,
        taken_at=now,
        finished_at=now,
    )
    assert (await job_store.finish_backup(job, stored, VerifyPolicy.NEVER)).recorded
    return str(job.makes_backup)


async def asked(
    instances: InstanceStore, target: InstanceJob, origin: Origin, template: str | None = None
) -> InstanceJob:
    """A reset that was requested."""
    return (await instances.request_reset(target.instance_id, template, "a client", origin)).job


async def row(queries: InstanceQueries, job: InstanceJob) -> DbInstance:
    found = await queries.any_instance(job.instance_id)
    assert found is not None
    return found


async def done(job_store: JobStore, job: InstanceJob) -> None:
    assert (await job_store.begin(job)).held
    assert await job_store.finish_replacement(job)


@MODES
async def test_job_carries_the_source_and_its_template_when_an_instance_is_reset_to_a_copy(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    target: InstanceJob,
    source: InstanceJob,
    mode: CopyMode,
) -> None:
    job = await asked(instances, target, CopyOrigin(source.instance_id, mode), "Minimal")
    assert job.operation is Operation.RESET
    assert job.job_id == f"ResetInstanceJob-{target.ods_instance_id}-2"
    assert job.replacement is not None
    assert job.replacement.origin == CopyOrigin(source.instance_id, mode, source.mark)
    assert job.replacement.template == Template.SAMPLE
    (waiting,) = [
        one for one in await job_store.waiting_jobs(0, 100) if one.instance_id == target.instance_id
    ]
    assert waiting == job
    recorded = await queries.job(job.job_id)
    assert recorded is not None
    assert (recorded.operation, recorded.database_template) == ("Reset", None)


async def test_origin_goes_with_the_database_when_a_reset_is_undone(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    target: InstanceJob,
    source: InstanceJob,
    backup: str,
) -> None:
    copy = CopyOrigin(source.instance_id, CopyMode.CLOSED, source.mark)
    await done(job_store, await asked(instances, target, copy))
    assert (await row(queries, target)).database.origin == copy
    assert (await row(queries, target)).database_template == "Sample"
    await done(job_store, await asked(instances, target, BackupOrigin(backup), "Sample"))
    after = await row(queries, target)
    assert (after.database.origin, after.database.copy_of) == (BackupOrigin(backup), None)
    versions = [one for one in await queries.versions() if one.instance_id == target.instance_id]
    assert {one.origin for one in versions} == {TemplateOrigin(), copy}

    await done(job_store, (await instances.request_undo_reset(target.instance_id)).job)
    assert (await row(queries, target)).database.origin == copy
    await done(job_store, await asked(instances, target, TemplateOrigin(), "Minimal"))
    assert (await row(queries, target)).database.origin == TemplateOrigin()


@pytest.mark.parametrize("request_", REFUSED)
@pytest.mark.parametrize("begun", [False, True])
async def test_request_is_refused_and_names_the_reset_when_the_instance_is_being_copied_by_one(
    instances: InstanceStore,
    job_store: JobStore,
    target: InstanceJob,
    source: InstanceJob,
    request_: str,
    *,
    begun: bool,
) -> None:
    job = await asked(instances, target, CopyOrigin(source.instance_id))
    if begun:
        assert (await job_store.begin(job)).held
    words = f"the instance {target.instance_id}, '{target.name}', is made of it"
    with pytest.raises(RefusedError, match=words) as refused:
        await REFUSED[request_](instances, source)
    assert job.job_id in refused.value.next_step


async def test_backup_is_made_of_the_source_unless_the_reset_copies_it_closed(
    instances: InstanceStore, job_store: JobStore, target: InstanceJob, source: InstanceJob
) -> None:
    online = await asked(instances, target, CopyOrigin(source.instance_id))
    backup = (await instances.request_backup(source.instance_id, "requested")).job
    assert (await job_store.begin(backup)).held
    assert await job_store.fail(backup, "The store is away.")
    await done(job_store, online)
    await asked(instances, target, CopyOrigin(source.instance_id, CopyMode.CLOSED))
    with pytest.raises(RefusedError, match="is made of it"):
        await instances.request_backup(source.instance_id, "requested")


End = Callable[[Tenant, JobStore, InstanceJob], Awaitable[Any]]


async def _complete(_: Tenant, jobs: JobStore, job: InstanceJob) -> None:
    await done(jobs, job)


async def _fail(_: Tenant, jobs: JobStore, job: InstanceJob) -> None:
    assert (await jobs.begin(job)).held
    assert await jobs.fail(job, "It could not be copied.")


async def _cancel(tenant: Tenant, _: JobStore, job: InstanceJob) -> None:
    recorded = await tenant.queries.job(job.job_id)
    assert recorded is not None
    assert await tenant.cancellations.cancel_waiting(recorded)


async def _cancel_lost(tenant: Tenant, jobs: JobStore, job: InstanceJob) -> None:
    assert (await jobs.begin(job)).held
    assert await tenant.cancellations.cancel_lost(job)


@MODES
@pytest.mark.parametrize("end", [_complete, _fail, _cancel, _cancel_lost])
async def test_source_is_free_again_when_the_job_of_the_reset_has_ended(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    target: InstanceJob,
    source: InstanceJob,
    mode: CopyMode,
    end: End,
) -> None:
    await end(tenant, job_store, await asked(instances, target, CopyOrigin(source.instance_id, mode)))
    assert (await instances.request_rename(source.instance_id, f"{source.name} new")).job.number == 2


async def test_source_is_held_on_when_the_workflow_of_the_reset_was_lost(
    instances: InstanceStore, job_store: JobStore, target: InstanceJob, source: InstanceJob
) -> None:
    job = await asked(instances, target, CopyOrigin(source.instance_id))
    assert (await job_store.begin(job)).held
    assert await job_store.release(job) is not None
    with pytest.raises(RefusedError):
        await instances.request_delete(source.instance_id)


async def test_source_is_not_held_by_the_undo_of_a_reset_to_a_copy_of_it(
    instances: InstanceStore, job_store: JobStore, target: InstanceJob, source: InstanceJob
) -> None:
    """The database of an undo is there already, whatever it is a copy of."""
    await done(job_store, await asked(instances, target, CopyOrigin(source.instance_id)))
    await done(job_store, await asked(instances, target, TemplateOrigin()))
    undo = (await instances.request_undo_reset(target.instance_id)).job
    assert undo.replacement is not None
    assert isinstance(undo.replacement.origin, CopyOrigin)
    await instances.request_delete(source.instance_id)
    await done(job_store, undo)


async def test_signal_of_the_operator_begins_again_only_when_the_source_can_be_copied(
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    target: InstanceJob,
    source: InstanceJob,
) -> None:
    job = await asked(instances, target, CopyOrigin(source.instance_id))
    await _fail(tenant, job_store, job)
    await job_store.end_replacement(job)
    rename = (await instances.request_rename(source.instance_id, f"{source.name} new")).job
    again = replace(job, attempt=2)
    assert not (await job_store.begin(again)).held
    after = await row(queries, target)
    assert (after.status, after.replacement) == ("Completed", None)

    assert (await job_store.begin(rename)).held
    assert await job_store.finish_rename(rename, CONNECTION_STRING)
    for _ in range(2):  # safe to repeat
        begun = await job_store.begin(again)
        assert (begun.held, begun.refusal) == (True, None)
    with pytest.raises(RefusedError):
        await instances.request_delete(source.instance_id)
    assert await job_store.finish_replacement(again)


async def test_reset_fails_with_the_reason_when_another_product_has_taken_the_source_away(
    instances: InstanceStore,
    job_store: JobStore,
    target: InstanceJob,
    source: InstanceJob,
    rows: asyncpg.Connection,
) -> None:
    job = await asked(instances, target, CopyOrigin(source.instance_id))
    await rows.execute(
        "UPDATE adminapi.managed_instances SET state = 'Deleted' WHERE id = $1", source.instance_id
    )
    begun = await job_store.begin(job)
    assert (begun.held, "is gone" in str(begun.refusal)) == (True, True)


@pytest.mark.parametrize("state", ["Pending", "InProgress", "Error", "Pending_Delete", "Delete_Failed"])
async def test_reset_is_refused_when_the_source_is_not_completed(
    instances: InstanceStore, job_store: JobStore, target: InstanceJob, name: str, state: str
) -> None:
    source = await bring_to(instances, job_store, state, f"{name} b")
    with pytest.raises(RefusedError, match=f"'{source.name}', cannot be copied in state {state}"):
        await asked(instances, target, CopyOrigin(source.instance_id))


async def test_reset_is_refused_when_it_is_to_the_instance_itself_or_to_none(
    instances: InstanceStore, queries: InstanceQueries, target: InstanceJob
) -> None:
    for origin, member, words in (
        (CopyOrigin(target.instance_id), "CopyOf", "a copy of itself"),
        (CopyOrigin(999_999), "CopyOf", "no instance 999999"),
        (BackupOrigin(str(uuid.uuid4())), "BackupId", "There is no backup"),
    ):
        for ask in (
            asked(instances, target, origin),
            instances.require_resettable(target.instance_id, origin),
        ):
            with pytest.raises(InvalidError) as refused:
                await ask
            assert words in str(refused.value.errors[member])
    with pytest.raises(InstanceNotFoundError):
        await instances.require_resettable(999_999)
    assert (await row(queries, target)).operation == Operation.CREATE


async def test_every_refusal_is_told_when_a_reset_is_judged(
    instances: InstanceStore, target: InstanceJob, source: InstanceJob
) -> None:
    origin = CopyOrigin(target.instance_id)
    await asked(instances, source, origin)
    await instances.change_attributes(target.instance_id, AttributeChanges(protected=True))
    for ask in (asked(instances, target, TemplateOrigin()), instances.require_resettable(target.instance_id)):
        with pytest.raises(RefusedError, match="protected") as refused:
            await ask
        assert ["is made of it" in one.reason for one in refused.value.others] == [True]


async def test_backup_is_kept_until_the_reset_to_it_has_ended(
    tenant: Tenant, instances: InstanceStore, job_store: JobStore, target: InstanceJob, backup: str
) -> None:
    job = await asked(instances, target, BackupOrigin(backup), "Sample")
    assert (job.operation, job.replacement and job.replacement.origin) == (
        Operation.RESET,
        BackupOrigin(backup),
    )
    for _ in range(2):
        with pytest.raises(BackupRefusedError, match=f"'{target.name}', is being restored"):
            await tenant.backups.mark_deleted(uuid.UUID(backup))
        assert (await job_store.begin(job)).held
    assert await job_store.finish_replacement(job)
    await tenant.backups.mark_deleted(uuid.UUID(backup))
    with pytest.raises(InvalidError):
        await asked(instances, target, BackupOrigin(backup), "Sample")


async def test_one_of_two_is_granted_when_each_shall_become_a_copy_of_the_other(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    """They would wait for each other if each locked its own row first."""
    for number in range(ROUNDS):
        one, other = [
            await bring_to(instances, job_store, "Completed", f"{name} {number} {it}") for it in "ab"
        ]
        outcomes = await asyncio.gather(
            asked(instances, one, CopyOrigin(other.instance_id)),
            asked(instances, other, CopyOrigin(one.instance_id)),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(outcome) for outcome in refused] == [RefusedError]


async def test_reset_or_delete_of_its_source_is_granted_but_never_both_when_they_are_requested_at_once(
    instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    target = await bring_to(instances, job_store, "Completed", name)
    granted = []
    for number in range(ROUNDS):
        source = await bring_to(instances, job_store, "Completed", f"{name} {number}")
        requests: list[Awaitable[Any]] = [
            asked(instances, target, CopyOrigin(source.instance_id)),
            instances.request_delete(source.instance_id),
        ]
        outcomes = await asyncio.gather(*requests[:: 1 if number % 2 else -1], return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(refused) == 1
        assert isinstance(refused[0], InstanceError)
        for outcome in outcomes:
            if not isinstance(outcome, BaseException):
                job = outcome if isinstance(outcome, InstanceJob) else outcome.job
                granted.append(job.rules.name)
                if job.operation is Operation.RESET:
                    await done(job_store, job)
    assert set(granted) == {"Reset", "Trash"}
