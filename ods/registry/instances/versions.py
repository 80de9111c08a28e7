"""The databases that instances had before resets: kept in the trash, and dropped from there when due.

A version is brought back by an exchange with the instance's database, or claimed by a pass that drops it.
Each locks the row of the instance first, so that it is one or the other.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Interval,
    SQLColumnExpression,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased

from ods.model.operations import AT_REST
from ods.model.revisions import TrashReason
from ods.registry.audit import AuditEntry, append
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.revisions import record_gone
from ods.registry.instances.steps import JobFactory, database_of, own_database
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.storage.errors import InvalidError, RefusedError
from ods.registry.storage.models import OUT_OF_TRASH, UTC_NOW, DbInstance, InstanceDatabase, is_own
from ods.registry.storage.sessions import RegistrySessions

_LIST = "`ods trash` (GET /v2/trash), which lists them with the ids of their instances"
_NOT_ITS_VERSION = f"No database of this name is kept that the instance had before a reset: see {_LIST}."
_NEXT = timedelta(microseconds=1)

_IS_DUE = and_(
    InstanceDatabase.is_replaced,
    or_(InstanceDatabase.purge_after <= UTC_NOW, InstanceDatabase.purging_since.is_not(None)),
)
# No job works on the instance, or waits, or has left something to be undone. Nor is the instance in the
# trash: its versions can come back with it, however long it stays there.
_MAY_GO = (
    DbInstance.status.in_(AT_REST),
    ~DbInstance.is_in_trash,
    DbInstance.replacement.is_(None),
    ~DbInstance.is_protected,
    DbInstance.database_id != InstanceDatabase.database_id,
)


@dataclass(frozen=True)
class ReplacedDatabase:
    """A database in the trash that an instance had before a reset, as its comment describes it."""

    number: int  # of the job that has put it there
    revision: str
    database_id: str
    template: str
    template_generation: int | None  # None if it is not known
    replaced_at: datetime


@dataclass(frozen=True)
class VersionPurge:
    """A version that is to be dropped from the trash, as workflows get it."""

    version_id: int
    tenant: str
    installation: str  # the one that has claimed it
    instance_id: int
    ods_instance_id: int
    name: str  # of the instance, as is the mark
    mark: str
    database_id: str  # of the version
    database: str  # its name in the trash
    number: int  # of the job that has put it there
    policy: ExecutionPolicy


class VersionStore:
    """The versions of one tenant's instances."""

    def __init__(self, engine: AsyncEngine, factory: JobFactory) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory

    async def is_purge_due(self) -> bool:
        """Whether the time of a version is over."""
        return await self._sessions.finds(select(InstanceDatabase.id).where(_IS_DUE).limit(1))

    async def claim_due(self, limit: int) -> list[VersionPurge]:
        """Claim up to `limit` versions whose time is over, those that are due longest first.

        From then on they cannot come back. Those claimed before and not dropped are claimed again, one after
        the other, after the others. Versions stay if their instance is protected, in the trash, or has a job.
        """
        return await self._claim(limit)

    async def claim_replaced(self, job: InstanceJob) -> list[VersionPurge]:
        """Claim the version that this job, which is done, has put into the trash, if it is due at once."""
        if job.replacement is None:
            return []
        its = _of(job, job.database_id)
        return await self._claim(1, *its, DbInstance.job_number == job.number)

    async def _claim(self, limit: int, *conditions: SQLColumnExpression[bool]) -> list[VersionPurge]:
        await self._factory.installation.require_confirmed()
        due = (
            select(InstanceDatabase.id, DbInstance)
            .join(DbInstance, DbInstance.id == InstanceDatabase.instance_id)
            .where(_IS_DUE, *conditions, *_MAY_GO)
            # Those that could not be dropped so far come last, so as not to hold up the others.
            .order_by(
                InstanceDatabase.purging_since.nulls_first(),
                InstanceDatabase.purge_after,
                InstanceDatabase.id,
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._sessions.transaction() as session:
            instances = {row[0]: row[1] for row in await session.execute(due)}
            claimed = await session.scalars(
                update(InstanceDatabase)
                .where(InstanceDatabase.id.in_(instances))
                .values(purging_since=UTC_NOW)
                .returning(InstanceDatabase)
            )
            return [self._purge(version, instances[version.id]) for version in claimed.all()]

    def _purge(self, version: InstanceDatabase, instance: DbInstance) -> VersionPurge:
        return VersionPurge(
            version_id=version.id,
            tenant=self._factory.tenant,
            installation=self._factory.installation.known_id,
            instance_id=instance.id,
            ods_instance_id=instance.ods_instance_id,
            name=instance.name,
            mark=str(instance.mark),
            database_id=str(version.database_id),
            database=version.trash_name,
            number=version.job_number,
            policy=self._factory.policy,
        )

    async def instance_of(self, purge: VersionPurge) -> DbInstance | None:
        """The instance whose version is still to be dropped.

        None if it is dropped or has come back; or if the instance is protected, in the trash or coming back,
        or was so since the claim.
        """
        query = (
            select(DbInstance)
            .join(InstanceDatabase, DbInstance.id == InstanceDatabase.instance_id)
            .where(
                *_is_row_of(purge),
                InstanceDatabase.purging_since.is_not(None),
                DbInstance.mark == UUID(purge.mark),
                ~DbInstance.is_protected,
                ~DbInstance.has_database_in_trash,
                DbInstance.database_id != InstanceDatabase.database_id,
            )
        )
        async with self._sessions.statement() as session:
            return await session.scalar(query)

    async def finish_purge(self, purge: VersionPurge, *, dropped: bool = True) -> None:
        """Record that the version is gone, in the audit trail as well. Safe to repeat.

        Also if it was to be kept since its DROP has begun. `dropped` says whether there was a database to
        drop.
        """
        gone = delete(InstanceDatabase).where(*_is_row_of(purge)).returning(InstanceDatabase.id)
        async with self._sessions.transaction() as session:
            if await session.scalar(gone) is not None:
                await record_gone(session, purge.instance_id, UUID(purge.database_id))
                await append(session, _purge_entry(purge, dropped=dropped))


def _is_row_of(purge: VersionPurge) -> tuple[SQLColumnExpression[bool], ...]:
    """The row is that of this version; a restored registry gives ids again."""
    its = InstanceDatabase.database_id == UUID(purge.database_id)
    return (InstanceDatabase.id == purge.version_id, its, InstanceDatabase.is_replaced)


async def version_to_bring_back(
    session: AsyncSession, instance: DbInstance, database: str | None
) -> InstanceDatabase:
    """The version that is to be the instance's database again; the caller has locked the row of the instance.

    `database` is its name in the trash; None for the one that was replaced last and can come back.
    """
    newest = InstanceDatabase.trashed_at.desc(), InstanceDatabase.id.desc()
    query = select(InstanceDatabase).where(*versions_of(instance.id)).order_by(*newest)
    versions = (await session.scalars(query)).all()
    if database is not None:
        # Compared here, and not repeated in the refusal: a client may send any text.
        versions = [one for one in versions if one.trash_name == database]
        if not versions:
            raise InvalidError({"Database": [_NOT_ITS_VERSION]})
    for version in versions:
        if version.purging_since is None:
            return version
    if database is not None:
        reason = f"The database '{database}' is being dropped: its time is over."
        next_step = f"Bring back another one, if one is kept: see {_LIST}."
    else:
        reason = "No earlier database of the instance is kept: it was never reset, or their time is over."
        next_step = "Nothing can be brought back."
    raise RefusedError(instance.status, reason, next_step)


async def replacement_obstacle(session: AsyncSession, job: InstanceJob) -> str | None:
    """Why what shall come back cannot; the caller has locked the row of the instance."""
    replacement = job.replacement
    if replacement is None or not replacement.from_trash:
        return None
    its = (*_of(job, replacement.database_id), InstanceDatabase.purging_since.is_(None))
    if await session.scalar(select(exists().where(*its))):
        return None
    return (
        f"The database '{replacement.database}' is not kept any more: it was dropped, or is about to be."
        f" Another one may be: see {_LIST}."
    )


async def record_exchange(
    session: AsyncSession, job: InstanceJob, trash: timedelta, *, in_doubt: bool
) -> None:
    """Record that the job replaced the instance's database: that is in the trash, and the other one is not.

    `in_doubt` says that clients may take the job for failed or cancelled: then what was replaced is kept for
    longer.
    """
    replacement = job.replacement
    if replacement is None:
        return
    # As long as at the request, at least: the client relies on that, whatever this worker's settings say.
    kept_for = max(trash, timedelta(seconds=replacement.kept_seconds)) if replacement.keeps else timedelta()
    purge_after = await end_of(session, max(kept_for, KEPT_IN_DOUBT) if in_doubt else kept_for)
    # Later than all others, also after the clock was set back: the latest comes back first.
    earlier = select(func.max(InstanceDatabase.trashed_at) + literal(_NEXT, Interval))
    replaced = {
        "reason": TrashReason.REPLACED,
        "trashed_at": func.greatest(UTC_NOW, earlier.where(*versions_of(job.instance_id)).scalar_subquery()),
        "trashed_by": replacement.by,
        "job_number": job.number,
        "purge_after": purge_after,
    }
    await session.execute(own_database(job).values(replaced))
    made = {
        InstanceDatabase.database_template: replacement.template,
        InstanceDatabase.template_generation: job.template_generation,
        InstanceDatabase.origin_column: asdict(replacement.origin),
        InstanceDatabase.published_at: UTC_NOW,
    }
    now = OUT_OF_TRASH if replacement.from_trash else made
    await session.execute(database_of(job, replacement.database_id).values(now))


async def keep_for_another_undo(session: AsyncSession, job: InstanceJob) -> None:
    """Keep the version that the job, which has failed, was to bring back: it was requested in time.

    Unless a pass drops it already.
    """
    if (replacement := job.replacement) is None or not replacement.from_trash:
        return
    its = (*_of(job, replacement.database_id), InstanceDatabase.purging_since.is_(None))
    kept = _no_earlier_than(await end_of(session, KEPT_IN_DOUBT))
    await session.execute(update(InstanceDatabase).where(*its).values(purge_after=kept))


async def record_version(
    session: AsyncSession,
    instance: DbInstance,
    replaced: ReplacedDatabase,
) -> None:
    """Record that a reset has replaced a database, which stays until a client has it dropped.

    The registry did not know that, but may know the database: as the one that the instance had.
    """
    replaced_at = func.least(replaced.replaced_at, UTC_NOW)
    facts: dict[Any, object] = {
        InstanceDatabase.job_number: replaced.number,
        InstanceDatabase.reason: TrashReason.REPLACED,
        InstanceDatabase.trashed_at: replaced_at,
        InstanceDatabase.purge_after: None,
    }
    key = {
        InstanceDatabase.instance_id: instance.id,
        InstanceDatabase.database_id: UUID(replaced.database_id),
    }
    described: dict[Any, object] = {
        InstanceDatabase.database_template: replaced.template or instance.database_template,
        InstanceDatabase.template_generation: replaced.template_generation,
        InstanceDatabase.published_at: replaced_at,
    }
    its = insert(InstanceDatabase).values({**key, **facts, **described})
    await session.execute(its.on_conflict_do_update(index_elements=list(key), set_=facts))


async def follow_delete(session: AsyncSession, instance_id: int, *, kept: bool) -> None:
    """Let the versions of a deleted instance be purged with it, or at once if it is not `kept`.

    Those that are kept for longer stay for that: with the instance, they can come back.
    """
    own = aliased(InstanceDatabase)
    with_it = select(own.purge_after).where(DbInstance.id == instance_id, is_own(own)).scalar_subquery()
    values = {"purge_after": func.greatest(with_it, InstanceDatabase.purge_after) if kept else UTC_NOW}
    await session.execute(update(InstanceDatabase).where(*versions_of(instance_id)).values(values))


async def keep_versions(session: AsyncSession, instance_id: int, kept_for: timedelta) -> None:
    """Let the versions of an instance stay for so long at least; the caller has locked its row.

    Their time may be over: the instance comes back from the trash, or its protection begins or ends. Those
    that a pass has begun to drop stay as well, for it looks again before it does; one that a DROP has half
    removed goes when its time is over again.
    """
    kept = _no_earlier_than(await end_of(session, kept_for))
    versions = update(InstanceDatabase).where(*versions_of(instance_id))
    await session.execute(versions.values(purge_after=kept, purging_since=None))


def _no_earlier_than(end: datetime) -> ColumnElement[Any]:
    """When a database in the trash is due; what has no end keeps none, until its instance is deleted."""
    has_end = InstanceDatabase.purge_after.is_not(None)
    return case((has_end, func.greatest(InstanceDatabase.purge_after, end)))


def versions_of(instance_id: SQLColumnExpression[int] | int) -> tuple[SQLColumnExpression[bool], ...]:
    """The databases in the trash that the instance had before resets."""
    return InstanceDatabase.instance_id == instance_id, InstanceDatabase.is_replaced


def _of(job: InstanceJob, database_id: str) -> tuple[SQLColumnExpression[bool], ...]:
    """The version of the job's instance that has this id (a UUID)."""
    return (*versions_of(job.instance_id), InstanceDatabase.database_id == UUID(database_id))


def _purge_entry(purge: VersionPurge, *, dropped: bool) -> AuditEntry:
    done = "Dropped" if dropped else "Found no"
    title = f"{done} {purge.database}: a database that {purge.name} had before a reset"
    path = f"/v2/trash/{purge.instance_id}"
    return AuditEntry("worker", purge.tenant, "PURGE", path, purge.instance_id, None, HTTPStatus.OK, title)
