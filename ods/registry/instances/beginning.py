"""How the jobs of instances begin: what each takes of the registry, and what keeps it from beginning."""

from functools import partial
from typing import assert_never
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.arguments import origin_in
from ods.model.operations import WAITING, InstanceStatus, JobStatus, Operation
from ods.model.origins import CopyOrigin
from ods.registry.instances import ods_routing, revisions
from ods.registry.instances.admin_api import to_the_trash
from ods.registry.instances.cancelling import ending_before_begin
from ods.registry.instances.contexts import own_contexts_of
from ods.registry.instances.copies import copy_obstacle, hold_refusal
from ods.registry.instances.deletes import DeleteRules
from ods.registry.instances.jobs import BeginResult, InstanceJob
from ods.registry.instances.ods_routing import (
    context_obstacle,
    contexts_to_come_back,
    keep_own_contexts,
    set_routing_aside,
)
from ods.registry.instances.refusals import protection_refusal
from ods.registry.instances.reservations import (
    former_name_refusal,
    lock_instances,
    lock_ods_instance,
    require_free,
)
from ods.registry.instances.steps import Guard, fencing_token, is_at, is_cancelled, own_database, take_step
from ods.registry.instances.versions import replacement_obstacle
from ods.registry.snapshots import rows as snapshots
from ods.registry.storage.errors import NameTakenError
from ods.registry.storage.models import DbInstance, Job
from ods.registry.storage.sessions import RegistrySessions


async def begin(
    sessions: RegistrySessions,
    job: InstanceJob,
    refusal: str | None,
    deletes: DeleteRules,
    strings: ods_routing.ConnectionStrings,
) -> BeginResult:
    """Take the instance for this attempt of the job, as `JobStore.begin` says."""
    if job.operation is Operation.BACKUP or (job.operation is Operation.CREATE and _copied(job) is None):
        async with sessions.statement() as session:
            return BeginResult(await _take_attempt(session, job), refusal)
    async with sessions.transaction() as session:
        match job.operation:
            case Operation.CREATE | Operation.BACKUP:
                begun = await _begin_copy(session, job, refusal)
            case Operation.DELETE:
                begun = await _begin_drop(deletes, strings, session, job, refusal)
            case Operation.DETACH:
                begun = await _begin_delete(strings, session, job, refusal)
            case Operation.PURGE:
                begun = await _begin_purge(session, job, refusal)
            case Operation.RENAME:
                begun = await _begin_rename(session, job, refusal)
            case Operation.UNDELETE:
                begun = await _begin_undelete(session, job, refusal)
            case Operation.SNAPSHOT:
                begun = await _begin_snapshot(session, job, refusal)
            case Operation.RESET:
                begun = await _begin_replacement(session, job, refusal)
            case _:
                assert_never(job.operation)
        return begun


async def _protection(session: AsyncSession, job: InstanceJob) -> str | None:
    """Lock the row of the instance; returns why its data must stay, if it is protected or being copied."""
    instance = await session.get(DbInstance, job.instance_id, with_for_update=True)
    if instance is None:
        return None
    refusal = protection_refusal(instance) or await hold_refusal(session, instance)
    return None if refusal is None else f"{refusal.reason} {refusal.next_step}"


async def _refused(session: AsyncSession, job: InstanceJob, reason: str) -> bool:
    """Let the job fail before it begins, if its instance waits for this attempt."""
    instance = await session.get_one(DbInstance, job.instance_id)
    ending = await ending_before_begin(session, instance, reason)
    before = fencing_token(job, job.attempt - 1)
    values = {**ending.instance, "error_message": reason}
    ended = await take_step(session, job, ending.step, values, before)
    if ended and ending.database:
        await session.execute(own_database(job).values(ending.database))
    if ended:
        await revisions.forget_intended(session, job)
    return ended


async def _ended_as(session: AsyncSession, job: InstanceJob, status: InstanceStatus) -> bool:
    """Whether the attempt before this one has ended, and left the instance in this status."""
    return await is_at(session, fencing_token(job, job.attempt - 1), status)


async def _begin_copy(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    obstacle = await _source_obstacle(session, job)
    if obstacle and await _ended_as(session, job, InstanceStatus.ERROR):
        return BeginResult(held=False)
    return BeginResult(await _take_attempt(session, job), refusal or obstacle)


async def _source_obstacle(session: AsyncSession, job: InstanceJob) -> str | None:
    """Why the instance that the job copies, if it copies one, cannot be copied now. Locks both rows."""
    if (copy := _copied(job)) is None:
        return None
    await lock_instances(session, [job.instance_id, copy.instance_id])
    instance = await session.get(DbInstance, job.instance_id)
    return None if instance is None else await copy_obstacle(session, instance, copy)


def _copied(job: InstanceJob) -> CopyOrigin | None:
    origin = origin_in(job.arguments)
    return origin if isinstance(origin, CopyOrigin) else None


async def _begin_drop(
    deletes: DeleteRules,
    strings: ods_routing.ConnectionStrings,
    session: AsyncSession,
    job: InstanceJob,
    refusal: str | None,
) -> BeginResult:
    """Not an Admin API's delete that the next sweep is to record as one to the trash.

    If the Admin API's status says that it has begun or failed, a retry or the reconcile pass lets it wait
    again.
    """
    trashed = select(DbInstance.id).where(DbInstance.id == job.instance_id, to_the_trash(deletes))
    if await session.scalar(trashed) is not None:
        return BeginResult(held=False)
    return await _begin_delete(strings, session, job, refusal)


async def _begin_delete(
    strings: ods_routing.ConnectionStrings, session: AsyncSession, job: InstanceJob, refusal: str | None
) -> BeginResult:
    # Before the savepoint: a rollback to it ends the locks taken after it.
    await lock_instances(session, [job.instance_id])
    await lock_ods_instance(session, job.ods_instance_id)
    async with session.begin_nested() as savepoint:
        begun = await _begin_purge(session, job, refusal)
        if not begun.held or not job.published or begun.refusal is not None:
            return begun
        if (obstacle := await _routing_ended(strings, session, job)) is None:
            return begun
        await savepoint.rollback()
    if await _refused(session, job, obstacle):
        return BeginResult(held=False)
    return BeginResult(await _take_attempt(session, job), obstacle)


async def _routing_ended(
    strings: ods_routing.ConnectionStrings, session: AsyncSession, job: InstanceJob
) -> str | None:
    """End the routing for a delete that has begun; returns why it goes on, if the instance is in use."""
    await snapshots.retire_all(session, job.instance_id, job.ods_instance_id)
    number = job.ods_instance_id
    if not job.rules.releases:  # a detach leaves the database to other ODS instances that lead there
        others = await ods_routing.others_leading_to(session, number, job.database, strings)
        if others:
            return f"{ods_routing.others_reason(others)} {ods_routing.OTHERS_NEXT_STEP}"
    if job.rules.to_trash and job.backup_first:  # the purge that follows forgets what others gave it
        own = await own_contexts_of(session, job.instance_id)
        if relations := await ods_routing.relations_of(session, number, own):
            return ods_routing.relations_reason(relations)
    if job.rules.to_trash:
        return await set_routing_aside(session, job)
    if job.rules.drops:
        await keep_own_contexts(session, job)
    return await ods_routing.end_routing(session, number)


async def _begin_purge(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    protection = await _protection(session, job)
    if protection is not None and await _refused(session, job, protection):
        return BeginResult(held=False)
    return BeginResult(await _take_attempt(session, job), refusal or protection)


async def _begin_rename(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    held = await _take_attempt(session, job, undo_due=True)
    if held:
        refusal = refusal or await ods_routing.rename_obstacle(session, job)
    return BeginResult(held, refusal)


async def _begin_undelete(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    obstacle = await _undelete_obstacle(session, job)
    if obstacle and await _ended_as(session, job, InstanceStatus.DELETED):
        return BeginResult(held=False)
    return BeginResult(await _take_attempt(session, job, undo_due=True), refusal or obstacle)


async def _begin_snapshot(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    # A snapshot leaves the instance in one status, done or failed: only a failed one is tried again.
    is_done = exists().where(Job.job_id == job.job_id, Job.status == JobStatus.COMPLETED)
    held = await _take_attempt(session, job, ~is_done)
    if held:
        await snapshots.ensure(session, job)
    return BeginResult(held, refusal)


async def _begin_replacement(session: AsyncSession, job: InstanceJob, refusal: str | None) -> BeginResult:
    """Begin a reset. After a failure the row may have lost the replacement; the job still knows it."""
    obstacle = await _source_obstacle(session, job)
    protection = await _protection(session, job)
    if protection is not None and await _refused(session, job, protection):
        return BeginResult(held=False)
    if obstacle and await _ended_as(session, job, InstanceStatus.COMPLETED):
        return BeginResult(held=False)
    wanted = job.replacement_column
    its = or_(DbInstance.replacement.is_(None), DbInstance.replacement == wanted)
    failed_before = exists().where(Job.job_id == job.job_id, Job.status == JobStatus.ERROR)
    can_begin = or_(DbInstance.status == InstanceStatus.PENDING, failed_before)
    if not await _take_attempt(session, job, its, can_begin, replacement=wanted):
        return BeginResult(held=False)
    obstacle = obstacle or await replacement_obstacle(session, job)
    return BeginResult(held=True, refusal=refusal or protection or obstacle)


async def _take_attempt(
    session: AsyncSession, job: InstanceJob, *conditions: ColumnElement[bool], **values: object
) -> bool:
    """Begin this attempt after the one before it, and write `values`; true as well if it has begun already.

    Not if the `conditions` do not hold; if the instance was given another database since the job was read,
    for the job would work on the old one; or if a client has cancelled the attempt before, unless a request
    has put the job back to waiting since.
    """
    before: Guard = (
        *fencing_token(job, job.attempt - 1),
        DbInstance.database_name == job.database,
        DbInstance.database_id == UUID(job.database_id),
        or_(~is_cancelled(), DbInstance.status.in_(WAITING)),
        *conditions,
    )
    step = job.rules.begin
    begun: dict[str, object] = {"error_message": None, **values}
    took_step = await take_step(session, job, step, begun, before, partial(revisions.intended, job))
    return took_step or await is_at(session, fencing_token(job), step.target)


async def _undelete_obstacle(session: AsyncSession, job: InstanceJob) -> str | None:
    """Why an instance in the trash cannot have its names and contexts; if None, they are reserved for it."""
    instance = await session.get(DbInstance, job.instance_id)
    try:
        await require_free(session, job.final_name, job.final_database, excluding=instance)
    except NameTakenError as error:
        return str(error)
    if instance is None:
        return None
    if (refusal := await former_name_refusal(session, instance, job.final_database)) is not None:
        return f"{refusal.reason} {refusal.next_step}"
    contexts = contexts_to_come_back(instance.set_aside, instance.reserved_contexts)
    return await context_obstacle(session, job.ods_instance_id, contexts)
