"""The databases that instances had before resets: kept in the trash, and dropped from there when due.

A version is brought back by an exchange with the instance's database, or claimed by a pass that drops it.
Each locks the row of the instance first, so that it is one or the other.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    SQLColumnExpression,
    Text,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.operations import AT_REST
from ods.registry.audit import AuditEntry, append
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.naming import TRASH_PREFIX
from ods.registry.instances.revisions import record_gone
from ods.registry.instances.steps import JobFactory
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.storage.errors import InvalidError, RefusedError
from ods.registry.storage.models import UTC_NOW, DbInstance, InstanceVersion
from ods.registry.storage.sessions import RegistrySessions

_LIST = "`ods trash` (GET /v2/trash), which lists them with the ids of their instances"
_NOT_ITS_VERSION = f"No database of this name is kept that the instance had before a reset: see {_LIST}."
_NEXT = timedelta(microseconds=1)

_IS_DUE = or_(InstanceVersion.purge_after <= UTC_NOW, InstanceVersion.purging_since.is_not(None))
# No job works on the instance, or waits, or has left something to be undone. Nor is the instance in the
# trash: its versions can come back with it, however long it stays there.
_MAY_GO = (
    DbInstance.status.in_(AT_REST),
    ~DbInstance.is_in_trash,
    DbInstance.replacement.is_(None),
    ~DbInstance.is_protected,
    DbInstance.database_id != InstanceVersion.database_id,
)


@dataclass(frozen=True)
class ReplacedDatabase:
    """A database in the trash that an instance had before a reset, as its comment describes it.

    Attributes:
        number: the job that has put it there.
        revision: the revision that it has there.
        template_generation: which generation of its template it is a copy of, if that is known.
        replaced_at: when it was put there, in UTC without a zone.
    """

    name: str
    number: int
    revision: str
    database_id: str
    template_generation: int | None
    replaced_at: datetime


@dataclass(frozen=True)
class VersionPurge:
    """A version that is to be dropped from the trash, as workflows get it.

    Attributes:
        installation: the installation that has claimed it.
        name: the instance's name.
        mark: the instance's mark.
        database_id: the UUID of the version.
        database: its name in the trash.
        number: the job that has put it there.
    """

    version_id: int
    tenant: str
    installation: str
    instance_id: int
    ods_instance_id: int
    name: str
    mark: str
    database_id: str
    database: str
    number: int
    policy: ExecutionPolicy


class VersionStore:
    """The versions of one tenant's instances."""

    def __init__(self, engine: AsyncEngine, factory: JobFactory) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory

    async def is_purge_due(self) -> bool:
        """Whether the time of a version is over."""
        return await self._sessions.finds(select(InstanceVersion.id).where(_IS_DUE).limit(1))

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
        its = _of(job, job.replacement.replaced)
        return await self._claim(1, *its, DbInstance.job_number == job.number)

    async def _claim(self, limit: int, *conditions: ColumnElement[bool]) -> list[VersionPurge]:
        await self._factory.installation.require_confirmed()
        due = (
            select(InstanceVersion.id, DbInstance)
            .join(DbInstance, DbInstance.id == InstanceVersion.instance_id)
            .where(_IS_DUE, *conditions, *_MAY_GO)
            # Those that could not be dropped so far come last, so as not to hold up the others.
            .order_by(
                InstanceVersion.purging_since.nulls_first(), InstanceVersion.purge_after, InstanceVersion.id
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._sessions.transaction() as session:
            instances = {row[0]: row[1] for row in await session.execute(due)}
            claimed = await session.scalars(
                update(InstanceVersion)
                .where(InstanceVersion.id.in_(instances))
                .values(purging_since=UTC_NOW)
                .returning(InstanceVersion)
            )
            return [self._purge(version, instances[version.id]) for version in claimed.all()]

    def _purge(self, version: InstanceVersion, instance: DbInstance) -> VersionPurge:
        return VersionPurge(
            version_id=version.id,
            tenant=self._factory.tenant,
            installation=self._factory.installation.known_id,
            instance_id=instance.id,
            ods_instance_id=instance.ods_instance_id,
            name=instance.name,
            mark=str(instance.mark),
            database_id=str(version.database_id),
            database=version.database_name,
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
            .join(InstanceVersion, DbInstance.id == InstanceVersion.instance_id)
            .where(
                *_is_row_of(purge),
                InstanceVersion.purging_since.is_not(None),
                DbInstance.mark == UUID(purge.mark),
                ~DbInstance.is_protected,
                ~DbInstance.has_database_in_trash,
                DbInstance.database_id != InstanceVersion.database_id,
            )
        )
        async with self._sessions.statement() as session:
            return await session.scalar(query)

    async def finish_purge(self, purge: VersionPurge, *, dropped: bool = True) -> None:
        """Record that the version is gone, in the audit trail as well. Safe to repeat.

        Also if it was to be kept since its DROP has begun. `dropped` says whether there was a database to
        drop.
        """
        gone = delete(InstanceVersion).where(*_is_row_of(purge)).returning(InstanceVersion.id)
        async with self._sessions.transaction() as session:
            if await session.scalar(gone) is not None:
                await record_gone(session, purge.instance_id, UUID(purge.database_id))
                await append(session, _purge_entry(purge, dropped=dropped))


def _is_row_of(purge: VersionPurge) -> tuple[ColumnElement[bool], ...]:
    """The row is that of this version; a restored registry gives ids again."""
    return (InstanceVersion.id == purge.version_id, InstanceVersion.database_name == purge.database)


def name_in_trash(job_number: SQLColumnExpression[int]) -> ColumnElement[str]:
    """The name that a delete gives the database of an instance in the trash, as `naming.trash_name` makes it.

    With the number of the delete's job, unless a version has that or a later one in its name: a restored
    registry gives numbers of jobs again, and what a forgotten delete has named can be a version since.
    """
    number = cast(func.substring(InstanceVersion.database_name, "_([0-9]{1,9})$"), Integer)
    its = InstanceVersion.instance_id == DbInstance.id
    last = select(func.max(number)).where(its).correlate(DbInstance).scalar_subquery()
    mark = func.replace(cast(DbInstance.mark, Text), "-", "")
    return func.concat(TRASH_PREFIX, mark, "_", func.greatest(job_number, last + 1))


async def version_to_bring_back(
    session: AsyncSession, instance: DbInstance, database: str | None
) -> InstanceVersion:
    """The version that is to be the instance's database again; the caller has locked the row of the instance.

    `database` is its name in the trash; None for the one that was replaced last and can come back.

    Raises:
        InvalidError: the instance has no such version.
        RefusedError: it is being dropped, or none can come back.
    """
    newest = InstanceVersion.replaced_at.desc(), InstanceVersion.id.desc()
    query = select(InstanceVersion).where(InstanceVersion.instance_id == instance.id).order_by(*newest)
    versions = (await session.scalars(query)).all()
    if database is not None:
        # Compared here, and not repeated in the refusal: a client may send any text.
        versions = [one for one in versions if one.database_name == database]
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
    its = (*_of(job, replacement.database), InstanceVersion.purging_since.is_(None))
    if await session.scalar(select(exists().where(*its))):
        return None
    return (
        f"The database '{replacement.database}' is not kept any more: it was dropped, or is about to be."
        f" Another one may be: see {_LIST}."
    )


async def record_exchange(
    session: AsyncSession,
    job: InstanceJob,
    replaced_generation: int | None,
    trash: timedelta,
    *,
    in_doubt: bool,
) -> None:
    """Record that the job replaced the instance's database: as a version, in place of the one that came back.

    `replaced_generation` is the generation of its template that the replaced database is a copy of.
    `in_doubt` says that clients may take the job for failed or cancelled: then the version is kept for
    longer.
    """
    replacement = job.replacement
    if replacement is None:
        return
    if replacement.from_trash:
        await session.execute(delete(InstanceVersion).where(*_of(job, replacement.database)))
    # As long as at the request, at least: the client relies on that, whatever this worker's settings say.
    kept_for = max(trash, timedelta(seconds=replacement.kept_seconds)) if replacement.keeps else timedelta()
    purge_after = await end_of(session, max(kept_for, KEPT_IN_DOUBT) if in_doubt else kept_for)
    # Later than all others, also after the clock was set back: the latest comes back first.
    earlier = select(func.max(InstanceVersion.replaced_at) + literal(_NEXT, Interval)).where(
        InstanceVersion.instance_id == job.instance_id
    )
    version = InstanceVersion(
        instance_id=job.instance_id,
        database_id=UUID(job.database_id),
        database_template=job.template,
        template_generation=replaced_generation,
        database_name=replacement.replaced,
        job_number=job.number,
        replaced_at=func.greatest(UTC_NOW, earlier.scalar_subquery()),
        replaced_by=replacement.by,
        purge_after=purge_after,
        origin_column=asdict(job.origin),
    )
    session.add(version)


async def keep_for_another_undo(session: AsyncSession, job: InstanceJob) -> None:
    """Keep the version that the job, which has failed, was to bring back: it was requested in time.

    Unless a pass drops it already.
    """
    if (replacement := job.replacement) is None or not replacement.from_trash:
        return
    its = (*_of(job, replacement.database), InstanceVersion.purging_since.is_(None))
    kept = func.greatest(InstanceVersion.purge_after, await end_of(session, KEPT_IN_DOUBT))
    await session.execute(update(InstanceVersion).where(*its).values(purge_after=kept))


def recorded_version(
    instance: DbInstance, replaced: ReplacedDatabase, trash: timedelta, earliest: datetime
) -> InstanceVersion:
    """A version that the registry did not know, kept for `trash` after it was replaced, and until `earliest`.

    Its comment does not name the template, so the instance's present one is recorded.
    """
    replaced_at = func.least(replaced.replaced_at, UTC_NOW)
    return InstanceVersion(
        instance_id=instance.id,
        database_id=UUID(replaced.database_id),
        database_template=instance.database_template,
        template_generation=replaced.template_generation,
        database_name=replaced.name,
        job_number=replaced.number,
        replaced_at=replaced_at,
        purge_after=func.greatest(replaced_at + literal(trash, Interval), earliest),
    )


async def forget_version(session: AsyncSession, instance: DbInstance) -> None:
    """Forget that the instance had its database before a reset: it has it again."""
    its = InstanceVersion.instance_id == instance.id, InstanceVersion.database_id == instance.database_id
    await session.execute(delete(InstanceVersion).where(*its))


async def follow_delete(session: AsyncSession, instance_id: int, *, kept: bool) -> None:
    """Let the versions of a deleted instance be purged with it, or at once if it is not `kept`.

    Those that are kept for longer stay for that: with the instance, they can come back.
    """
    with_it = select(DbInstance.purge_after).where(DbInstance.id == instance_id).scalar_subquery()
    values = {"purge_after": func.greatest(with_it, InstanceVersion.purge_after) if kept else UTC_NOW}
    its = InstanceVersion.instance_id == instance_id
    await session.execute(update(InstanceVersion).where(its).values(values))


async def keep_versions(session: AsyncSession, instance_id: int, kept_for: timedelta) -> None:
    """Let the versions of an instance stay for so long at least; the caller has locked its row.

    Their time may be over: the instance comes back from the trash, or its protection begins or ends. Those
    that a pass has begun to drop stay as well, for it looks again before it does; one that a DROP has half
    removed goes when its time is over again.
    """
    its = InstanceVersion.instance_id == instance_id
    kept = func.greatest(InstanceVersion.purge_after, await end_of(session, kept_for))
    await session.execute(update(InstanceVersion).where(its).values(purge_after=kept, purging_since=None))


def _of(job: InstanceJob, database: str) -> tuple[ColumnElement[bool], ...]:
    """The version of the job's instance that has this name in the trash."""
    return InstanceVersion.instance_id == job.instance_id, InstanceVersion.database_name == database


def _purge_entry(purge: VersionPurge, *, dropped: bool) -> AuditEntry:
    done = "Dropped" if dropped else "Found no"
    title = f"{done} {purge.database}: a database that {purge.name} had before a reset"
    path = f"/v2/trash/{purge.instance_id}"
    return AuditEntry("worker", purge.tenant, "PURGE", path, purge.instance_id, None, HTTPStatus.OK, title)
