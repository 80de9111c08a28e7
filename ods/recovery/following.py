"""One step of a recovery: the registry records an instance as the comment of its database describes it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import assert_never
from uuid import uuid4

import asyncpg

from ods.databases import adoption
from ods.databases.activating import rename, take_out
from ods.databases.changing import CLOSE, MARK, change, change_name
from ods.databases.constants import INSUFFICIENT_PRIVILEGE
from ods.databases.errors import DatabaseFaultError
from ods.databases.left_names import leaving
from ods.databases.lookup import DatabaseRows, find
from ods.databases.ownership import KnownOwner, Owner, trashed_at
from ods.databases.retiring import TrashJob, retire
from ods.databases.server import leave_to_job
from ods.databases.statements import server_clock
from ods.model.operations import RULES, Operation
from ods.model.revisions import KnownRevisions, Revision, RevisionState, Role
from ods.recovery.adoption import needed_databases
from ods.recovery.plan import RecoveryStep, StepKind
from ods.registry.backups.rows import without_zone
from ods.registry.instances.adoptions import DatabaseName, ToldInstance
from ods.registry.instances.naming import is_trash_name, trash_name
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant

_logger = logging.getLogger(__name__)
_JOB = "recovered"
"""In a comment, in place of the job that wrote it."""


class ChangedMeanwhileError(Exception):
    """The comment of the database does not say any more what the step says."""


class UnusableError(Exception):
    """The service could not work on the database, and why."""


async def follow(tenant: Tenant, step: RecoveryStep) -> None:
    """Carry the step out, behind the fence of its instance.

    A database whose revision the registry does not know stays as it is. If the server was put back, so that
    the registry knows the revision as void, its database gets the name that it has by the registry, and is
    opened or closed as that says; so does one in the trash that the operator has chosen.

    Raises:
        ChangedMeanwhileError: registry and server are not any more as they were when the step was planned.
        UnusableError: the service could not work on the database.
        RefusedError: a job of the instance waits or works, or others have what it needs.
        NameTakenError: another instance, or ODS instance, has its name or its number.
        DatabaseFaultError: the server refuses, or a job works on the instance.
    """
    async with _fenced(tenant, step) as (session, found):
        needed, marked = await needed_databases(tenant), _described(found, step.database)
        candidate = await adoption.inspect(session, marked, step.database, needed)
        if candidate is None or candidate.obstacle is not None:
            raise ChangedMeanwhileError if candidate is None else UnusableError(candidate.obstacle)
        match step.kind:
            case StepKind.HAND_OVER | StepKind.TAKE_BACK | StepKind.RECORD:
                await _follow_use(tenant, session, found, step)
            case StepKind.DELETE | StepKind.RECORD_DELETED:
                await _follow_delete(tenant, session, found, step)
            case _:
                assert_never(step.kind)


async def leave_name(tenant: Tenant, step: RecoveryStep) -> None:
    """Give the step's database a private name, because another one waits for its own; nothing else changes.

    Raises:
        ChangedMeanwhileError: its comment is not as it was when the step was planned.
        DatabaseFaultError: the server refuses, or a job works on the instance.
    """
    async with _fenced(tenant, step) as (session, found):
        database_id = _described(found, step.database).database_id
        await change_name(tenant.server, session, found[step.database], trash_name(database_id))


@asynccontextmanager
async def _fenced(
    tenant: Tenant, step: RecoveryStep
) -> AsyncIterator[tuple[asyncpg.Connection, DatabaseRows]]:
    """Work on the step's instance behind its fence, with its databases as they are now.

    Raises:
        ChangedMeanwhileError: the comment of the step's database is not as it was when that was planned.
    """
    async with tenant.server.session() as session:
        owner = await adoption.owner_of(session, step.database)
    if owner is None:
        raise ChangedMeanwhileError
    async with tenant.server.fenced(owner, leave_to_job) as session:
        await tenant.installation.require_confirmed(session)
        found = await find(session, owner, step.database)
        marked = _described(found, step.database)
        if (marked.mark, marked.revision) != (step.mark, step.revision):
            raise ChangedMeanwhileError
        yield session, found


async def _follow_use(
    tenant: Tenant, session: asyncpg.Connection, found: DatabaseRows, step: RecoveryStep
) -> None:
    database, marked = step.database, _described(found, step.database)
    row = await tenant.queries.marked_instance(marked.mark)
    is_known = row is not None and await _is_known(tenant, row, marked)
    name, target = marked.name, marked.trashed_name or database
    if row is not None and row.is_live and (target != database or step.is_earlier):
        name, target = row.name, row.database_name
    its = replace(_recovered(found, marked), name=name)
    recorded = _told(found, marked if target == database else its)
    await tenant.adoptions.require_place(replace(recorded, name=name), target)
    if target != database:
        if target in found and found[target].is_of(marked) and not found[target].is_invalid:
            raise UnusableError(
                f"The instance has another database, named '{target}'. `ods instance undo-reset ID --database"
                f" {database}` exchanges the two, or give that one another name."
            )
        if marked.role is Role.RETAINED:
            await take_out(tenant.server, session, its, database, target)
        else:
            await rename(tenant.server, session, its, database, target)
        found = await find(session, marked, target)
    elif row is not None and row.is_live:
        await _mark_by_hand(session, found, target, row, leaves=is_known)
        found = await find(session, marked, target)
    marked = _described(found, target)
    if marked.role is not Role.CURRENT:
        raise ChangedMeanwhileError
    if step.is_chosen:
        await _retire_others(tenant, session, found, target)
    named = DatabaseName(target, tenant.connection_strings.encrypted(target))
    replaced = await adoption.replaced_databases(session, marked, target)
    told = replace(_told(found, marked), name=name)
    await tenant.adoptions.follow(told, named, replaced, leaves=is_known or step.is_earlier)


async def _retire_others(
    tenant: Tenant, session: asyncpg.Connection, found: DatabaseRows, chosen: str
) -> None:
    """Put the databases in use that the operator has not chosen into the trash, as a reset does.

    One may be a copy, with the comment of the other: it gets an id of its own. Only a client has it dropped.
    One that our role may not rename stays, and the comparison tells of it.
    """
    owner = _described(found, chosen)
    for name, row in found.items():
        other = row.marked
        if name == chosen or other is None or other.role is not Role.CURRENT:
            continue
        if row.is_invalid or not row.is_of(owner):
            continue
        its = replace(
            other,
            job_id=f"{RULES[Operation.RESET].word}-{other.ods_instance_id}-{other.number}",
            database_id=str(uuid4()),
            revision=str(uuid4()),
            trashed_name=name,
        )
        comment, trash = its.comment_at(await server_clock(session)), trash_name(its.database_id)
        try:
            await change_name(tenant.server, session, row, trash, CLOSE, MARK, comment=comment)
        except DatabaseFaultError as fault:
            if fault.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            _logger.warning("'%s' stays as it is: %s", name, fault.reason)


async def _follow_delete(
    tenant: Tenant, session: asyncpg.Connection, found: DatabaseRows, step: RecoveryStep
) -> None:
    database, marked = step.database, _described(found, step.database)
    row = await tenant.queries.marked_instance(marked.mark) if step.is_earlier else None
    if step.is_earlier and (row is None or not row.is_in_trash):
        raise ChangedMeanwhileError
    if row is not None and marked.role is Role.CURRENT:
        trash = trash_name(marked.database_id)
        its = replace(_recovered(found, marked), name=row.name)
        await retire(tenant.server, session, TrashJob(its, [database], trash))
        database, found = trash, await find(session, marked, trash)
        marked = _described(found, database)
    since = trashed_at(found[database].comment)
    if marked.trashed_name is None or since is None:
        raise ChangedMeanwhileError
    replaced = await adoption.replaced_databases(session, marked, database)
    told, named = _told(found, marked), marked.trashed_name
    if row is not None:
        told, named = replace(told, name=row.name), row.database_name
    await tenant.adoptions.record_deleted(told, named, without_zone(since), replaced)


async def _mark_by_hand(
    session: asyncpg.Connection, found: DatabaseRows, database: str, row: DbInstance, *, leaves: bool
) -> None:
    """Write what a DBA has not who has given the database another name, or the comment of one in the trash.

    Args:
        leaves: whether it leaves the name that it has by the registry only now: the ODS/API may have that in
            its cache.
    """
    marked, is_renamed = _described(found, database), leaves and database != row.database_name
    its = replace(_recovered(found, marked), database_id=_own_id(found, database, row))
    if is_renamed:
        its = replace(its, left=leaving(marked.left, row.database_name))
    if is_renamed or its.database_id != marked.database_id:
        comment = its.comment_at(await server_clock(session))
        await change(session, database, found[database].oid, MARK, comment=comment)


def _own_id(found: DatabaseRows, database: str, row: DbInstance) -> str:
    """The database's id; the instance's own if the comment is that of one in the trash."""
    its = _described(found, database).database_id
    in_trash = [one.marked for name, one in found.items() if name != database and is_trash_name(name)]
    is_copied = any(marked and marked.database_id == its for marked in in_trash)
    return str(row.database_id) if is_copied else its


async def _is_known(tenant: Tenant, row: DbInstance, marked: Owner) -> bool:
    """Whether the registry knows the revision of the database."""
    known = await tenant.queries.revisions_of(row.id)
    return known.state_of(marked.database_id, marked.revision) is not None


def _recovered(found: DatabaseRows, marked: Owner) -> KnownOwner:
    """The instance, as the comment tells it, with a new revision and a number after all others."""
    if marked.revision is None:
        raise ChangedMeanwhileError
    confirmed = Revision(marked.revision, marked.database_id, RevisionState.CONFIRMED)
    known = KnownRevisions((confirmed,), marked.is_protected)
    number = _told(found, marked).last_number + 1
    its = replace(marked, trashed_name=None, job_id=_JOB, number=number).knowing(known)
    return replace(its, revision=str(uuid4()))


def _described(found: DatabaseRows, database: str) -> Owner:
    """What the comment of the database says.

    Raises:
        ChangedMeanwhileError: it is gone, or its comment says nothing.
    """
    row = found.get(database)
    if row is None or row.marked is None:
        raise ChangedMeanwhileError
    return row.marked


def _told(found: DatabaseRows, marked: Owner) -> ToldInstance:
    """The instance as the comment describes it."""
    if marked.revision is None:
        raise ChangedMeanwhileError
    its = [row.marked.number for row in found.values() if row.marked and row.is_of(marked)]
    return ToldInstance(
        name=marked.name,
        template=marked.template,
        ods_instance_id=marked.ods_instance_id,
        mark=marked.mark,
        number=marked.number,
        template_generation=marked.template_generation,
        database_id=marked.database_id,
        revision=marked.revision,
        last_number=max(its, default=marked.number),
        is_protected=marked.is_protected,
    )
