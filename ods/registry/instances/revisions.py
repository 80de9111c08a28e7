"""The revisions of databases, as the registry records them: see `ods.model.revisions`.

A request for a job that changes the comments of databases intends a revision of each; the last write of the
job confirms them. If a job ends otherwise, the comments show what became of them.

Functions that take `moved` make the statements that are run if `moved` has a row: that of the instance.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Interval,
    ScalarSelect,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from ods.model.revisions import KnownRevisions, Revision, RevisionState, Role, revision_by
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.models import UTC_NOW, DatabaseRevision, DbInstance

_KEPT_OF_GONE = timedelta(days=90)
"""How long the registry knows that a database is gone: a server that was put back may have it again."""
_GONE = {"state": RevisionState.VOID, "at": UTC_NOW}
_IS_KNOWN = DatabaseRevision.state.in_([RevisionState.INTENDED, RevisionState.CONFIRMED])
_IS_DUE = DatabaseRevision.state == RevisionState.DUE
HAS_DUE = exists().where(DatabaseRevision.instance_id == DbInstance.id, _IS_DUE)
"""Whether a revision is to be written into the comment of a database of the instance: see `renew`."""


def revised_by(job: InstanceJob) -> Sequence[tuple[UUID, Role]]:
    """The databases that get a revision from an attempt at the job, and their roles then.

    A database that it drops or releases has no comment then, and so no revision.
    """
    rules, its = job.rules, UUID(job.database_id)
    if rules.replaces and job.replacement is not None:
        return [(its, Role.RETAINED), (UUID(job.replacement.database_id), Role.CURRENT)]
    if rules.to_trash:
        return [(its, Role.RETAINED)]
    return [(its, Role.CURRENT)] if rules.publishes and not rules.replaces else []


def revisions_of(job: InstanceJob) -> list[DatabaseRevision]:
    """The revisions that a new job will give to databases, as they are recorded with the request."""
    return [
        DatabaseRevision(
            id=_revision(job, database),
            instance_id=job.instance_id,
            database_id=database,
            role=role,
            state=RevisionState.INTENDED,
        )
        for database, role in revised_by(job)
    ]


def intended(job: InstanceJob, moved: CTE) -> list[CTE]:
    """Record the revisions that a beginning job intends.

    Those of the first attempt are recorded already, unless another product has requested the job.
    """
    return [
        _recorded(moved, _revision(job, database), database, role, RevisionState.INTENDED)
        .on_conflict_do_nothing(index_elements=["id"])
        .cte(f"intended_{role}")
        for database, role in revised_by(job)
    ]


def _recorded(moved: CTE, revision: UUID, database: UUID, role: Role, state: RevisionState) -> Insert:
    values = {
        "id": literal(revision),
        "instanceid": moved.c.id,
        "databaseid": literal(database),
        "role": literal(role),
        "state": literal(state),
    }
    return insert_or_update(DatabaseRevision).from_select([*values], select(*values.values()))


def _revision(job: InstanceJob, database: UUID) -> UUID:
    return UUID(revision_by(job.request, job.attempt, str(database)))


def confirmed(job: InstanceJob, moved: CTE) -> list[CTE]:
    """Record the revisions that the attempt has given; others become void.

    One that was due before the job was requested is another one from now on: a registry that is put back
    to before the job must not know what the comment gets then.
    """
    given = {database: _revision(job, database) for database, _ in revised_by(job)}
    if not given:
        return []
    its = DatabaseRevision.instance_id.in_(select(moved.c.id)), DatabaseRevision.database_id.in_(given)
    is_given = DatabaseRevision.id.in_(given.values())
    changed = or_(_IS_KNOWN, is_given)
    recorded = update(DatabaseRevision).where(*its, changed).values(state=_if(is_given)).cte("confirmed")
    intent = aliased(DatabaseRevision)
    requested_at = select(func.min(intent.at)).where(intent.id.in_(given.values())).scalar_subquery()
    due = update(DatabaseRevision).where(*its, _IS_DUE, DatabaseRevision.at < requested_at)
    columns = DatabaseRevision.instance_id, DatabaseRevision.database_id, DatabaseRevision.role
    void = due.values(state=RevisionState.VOID).returning(*columns).cte("was_due")
    again = select(void).distinct().subquery()
    values = (func.gen_random_uuid(), literal(RevisionState.DUE), *again.c)
    names = ["id", "state", *(column.name for column in void.c)]
    return [recorded, void, insert(DatabaseRevision).from_select(names, select(*values)).cte("due_again")]


def confirmed_as(job: InstanceJob, revision: str, moved: CTE) -> list[CTE]:
    """Record that the database of a create has this revision, as its comment says."""
    its, database = UUID(revision), UUID(job.database_id)
    recorded = _recorded(moved, its, database, Role.CURRENT, RevisionState.CONFIRMED)
    anew = {"state": RevisionState.CONFIRMED}
    is_other = DatabaseRevision.database_id == database, DatabaseRevision.id != its
    void = update(DatabaseRevision).where(DatabaseRevision.instance_id.in_(select(moved.c.id)), *is_other)
    return [
        recorded.on_conflict_do_update(index_elements=["id"], set_=anew).cte("confirmed"),
        void.values(state=RevisionState.VOID).cte("void"),
    ]


async def renew(session: AsyncSession, instance_id: int) -> None:
    """Have each database of an instance get another revision, which changes nothing else of it.

    A client has called off a job that would have dropped or replaced one, or has protected them. A registry
    that is put back to before that does not know the revision, and drops none of them.
    """
    its = DatabaseRevision.instance_id == instance_id, DatabaseRevision.state == RevisionState.CONFIRMED
    columns = {
        "id": func.gen_random_uuid(),
        "instanceid": DatabaseRevision.instance_id,
        "databaseid": DatabaseRevision.database_id,
        "role": DatabaseRevision.role,
        "state": literal(RevisionState.DUE),
    }
    new = select(*columns.values()).where(*its)
    await session.execute(insert(DatabaseRevision).from_select([*columns], new))


async def forget_database(session: AsyncSession, instance_id: int, database: UUID) -> None:
    """Remove the revisions of a database that was made for a reset, and never became the instance's.

    It has had none of them; a later attempt at the reset makes another one with its UUID.
    """
    its = DatabaseRevision.instance_id == instance_id, DatabaseRevision.database_id == database
    await session.execute(delete(DatabaseRevision).where(*its))


async def forget_intended(session: AsyncSession, job: InstanceJob) -> None:
    """Remove the revisions of an attempt that ends before it has begun: no database has ever had them."""
    ids = [_revision(job, database) for database, _ in revised_by(job)]
    await session.execute(delete(DatabaseRevision).where(DatabaseRevision.id.in_(ids)))


def gone(database: UUID, moved: CTE) -> list[CTE]:
    """Record that a database is gone, or not the instance's any more."""
    its = DatabaseRevision.instance_id.in_(select(moved.c.id)), DatabaseRevision.database_id == database
    return [update(DatabaseRevision).where(*its).values(_GONE).cte("gone")]


async def record_gone(session: AsyncSession, instance_id: int, database: UUID) -> None:
    """Record that a database is gone; remove what is known of others that have been gone for long."""
    of_instance = DatabaseRevision.instance_id == instance_id
    its = update(DatabaseRevision).where(of_instance, DatabaseRevision.database_id == database)
    await session.execute(its.values(_GONE))
    there = select(DatabaseRevision.database_id).where(of_instance, or_(_IS_KNOWN, _IS_DUE))
    is_old = DatabaseRevision.at < UTC_NOW - literal(_KEPT_OF_GONE, Interval)
    old = of_instance, is_old, DatabaseRevision.database_id.not_in(there)
    await session.execute(delete(DatabaseRevision).where(*old))


async def resolve(
    session: AsyncSession, instance_id: int, seen: Collection[str], tried: Collection[str] = ()
) -> None:
    """Record which revisions databases have, by the revisions `seen` in their comments; others become void.

    A database whose revision the registry does not know stays as it is recorded, and so does one that is not
    there. `tried` are the revisions that were due and that no comment gets any more. The caller has locked
    the row of the instance, and no job changes the comments meanwhile.
    """
    ids = [UUID(one) for one in seen]
    is_seen = DatabaseRevision.id.in_(ids)
    its = update(DatabaseRevision).where(DatabaseRevision.instance_id == instance_id)
    is_over = DatabaseRevision.id.in_([UUID(one) for one in tried]), _IS_DUE
    await session.execute(its.where(*is_over).values(state=_if(is_seen)))
    known_here = DatabaseRevision.instance_id == instance_id, _IS_KNOWN
    looked_at = select(DatabaseRevision.database_id).where(*known_here, is_seen)
    of_these = its.where(_IS_KNOWN, DatabaseRevision.database_id.in_(looked_at))
    await session.execute(of_these.values(state=_if(is_seen)))


async def record_revision(
    session: AsyncSession, instance_id: int, database: UUID, revision: str, role: Role
) -> None:
    """Record that a database has this revision by an operator's word, whatever the registry knew of it."""
    others = DatabaseRevision.instance_id == instance_id, DatabaseRevision.database_id == database
    await session.execute(update(DatabaseRevision).where(*others).values(state=RevisionState.VOID))
    its = {"instance_id": instance_id, "database_id": database, "role": role}
    await session.merge(DatabaseRevision(id=UUID(revision), state=RevisionState.CONFIRMED, **its))


def _if(condition: ColumnElement[bool]) -> ColumnElement[str]:
    return case((condition, RevisionState.CONFIRMED), else_=RevisionState.VOID)


def known_of_instance() -> ScalarSelect[Any]:
    """What the registry knows of an instance's databases, in a statement on its row: see `as_known`.

    Those of databases that are gone are removed after a while, so that there are never many.
    """
    row = func.jsonb_build_array(DatabaseRevision.id, DatabaseRevision.database_id, DatabaseRevision.state)
    is_its = DatabaseRevision.instance_id == DbInstance.id
    rows = func.jsonb_agg(aggregate_order_by(row, DatabaseRevision.at))
    known = func.jsonb_build_array(DbInstance.is_protected, rows, type_=JSONB)
    return select(known).where(is_its).scalar_subquery()


def as_known(read: tuple[bool, Sequence[tuple[str, str, str]] | None] | None) -> KnownRevisions:
    """What `known_of_instance` has read; nothing if the instance is gone."""
    is_protected, rows = read or (False, ())
    known = (Revision(one, database, RevisionState(state)) for one, database, state in rows or ())
    return KnownRevisions(tuple(known), is_protected)
