"""The rows of backups as requests and jobs of instances write them, within the transactions of these."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, Select, exists, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ods.model.arguments import origin_in
from ods.model.operations import UNDER_WAY
from ods.model.origins import BackupOrigin
from ods.observability.metrics.catalog import BACKUPS
from ods.registry.backups.details import details_of
from ods.registry.backups.stored import StoredBackup
from ods.registry.instances.jobs import InstanceJob
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.storage.errors import InvalidError
from ods.registry.storage.models import MADE_OF_OTHERS, UTC_NOW, Backup, DbInstance
from ods.registry.storage.sessions import when_committed
from ods.settings.settings import VerifyPolicy

SCHEDULED, FINAL = "scheduled", "final"
"""Kinds of backups: those that a schedule requests, and those that are made before an instance is purged.

`ods.backups.manifest.BackupKind` has all kinds.
"""

UNTIL_THE_NEXT = datetime.fromisoformat("2999-01-01")
"""Stands for the time at which an instance was found as in a backup last, where that is not known.

It may have been until the next backup was made. A time that a schedule has is earlier.
"""
VERIFICATION_WAITS = "Pending"
VERIFICATION_RUNS = "InProgress"
VERIFICATION_PASSED = "Completed"
VERIFICATION_FAILED = "Error"
VERIFICATION_UNDER_WAY = (VERIFICATION_WAITS, VERIFICATION_RUNS)

_LATELY = timedelta(days=6, hours=12)
"""Within it, a verification counts as one of this week. It has ended some time after the time of the schedule
for which it was due, and seven days after that time there is to be another one.
"""


async def add_backup(
    session: AsyncSession, instance: DbInstance, job: InstanceJob, kind: str, due_at: datetime | None = None
) -> None:
    """Record that `job` makes a backup of the instance as it is now; `due_at` is in UTC without a zone."""
    session.add(
        Backup(
            id=UUID(job.makes_backup),
            instance_id=instance.id,
            ods_instance_id=instance.ods_instance_id,
            mark=instance.mark,
            installation=UUID(job.installation),
            name=instance.name,
            kind=kind,
            job_id=job.job_id,
            template=instance.database_template,
            created_at=UTC_NOW,
            details=await details_of(session, instance),
            due_at=due_at,
        )
    )


async def record_stored(
    session: AsyncSession, job: InstanceJob, stored: StoredBackup, policy: VerifyPolicy
) -> bool:
    """Record what the job has stored; returns whether it is to be verified now."""
    verify = await _is_verification_due(session, job, policy)
    recorded = update(Backup).where(*_made_by(job)).values(**stored_values(stored, verify=verify))
    if (kind := await session.scalar(recorded.returning(Backup.kind))) is not None:
        when_committed(session, partial(_count, kind, "completed", job))
    return verify


async def record_final(session: AsyncSession, job: InstanceJob, stored: StoredBackup, state: str) -> bool:
    """Record what a purge has stored before it drops the database, which it is about to verify.

    `state` is that of the database when it was closed again. False if a client has deleted the backup.
    """
    unproven = {"database_state": state, "proven_id": None, "verification_error": None, "verified_at": None}
    its = (*_made_by(job), Backup.deleted_at.is_(None))
    recorded = update(Backup).where(*its).values(**stored_values(stored, verify=True), **unproven)
    if (kind := await session.scalar(recorded.returning(Backup.kind))) is None:
        return False
    when_committed(session, partial(_count, kind, "completed", job))
    return True


async def count_failure(session: AsyncSession, job: InstanceJob) -> None:
    """Count the backup that the failed job was to make, unless it is stored, once that is committed."""
    if job.makes_backup is None:
        return
    missing = select(Backup.kind).where(*_made_by(job), Backup.stored_id.is_(None))
    if (kind := await session.scalar(missing)) is not None:
        when_committed(session, partial(_count, kind, "failed", job))


async def _count(kind: str, outcome: str, job: InstanceJob) -> None:
    BACKUPS.labels(kind, outcome, job.tenant).inc()


def _made_by(job: InstanceJob) -> tuple[ColumnElement[bool], ...]:
    """The backup is the one that the job makes."""
    return Backup.id == UUID(job.makes_backup), Backup.job_id == job.job_id, Backup.mark == UUID(job.mark)


def stored_values(stored: StoredBackup, *, verify: bool) -> dict[str, Any]:
    """The columns of a backup that is stored."""
    return {
        "stored_id": UUID(stored.stored_id),
        "location": stored.location,
        "size_bytes": stored.size_bytes,
        "database_size_bytes": stored.database_size_bytes,
        "sha256": stored.sha256,
        "manifest_sha256": stored.manifest_sha256,
        "postgres_version": stored.postgres_version,
        "encrypted": stored.encrypted,
        "change_sign": stored.change_sign,
        "taken_at": without_zone(stored.taken_at),
        "finished_at": without_zone(stored.finished_at),
        "verification": VERIFICATION_WAITS if verify else None,
    }


async def _is_verification_due(session: AsyncSession, job: InstanceJob, policy: VerifyPolicy) -> bool:
    match policy:
        case VerifyPolicy.ALWAYS:
            return True
        case VerifyPolicy.NEVER:
            return False
        case VerifyPolicy.WEEKLY:
            return not await _has_passed_lately(session, Backup.mark == UUID(job.mark))
        case _:
            assert_never(policy)


async def wait_for_due_verification(session: AsyncSession, backup: Backup, policy: VerifyPolicy) -> None:
    """Record that a backup shall be verified which stands for one that is not made, if that is due.

    What is stored may be damaged at any time. `always` is for what is stored anew: this one is verified once
    in seven days.

    The backup is locked, and has not failed its last verification.
    """
    match policy:
        case VerifyPolicy.ALWAYS:
            its = Backup.id == backup.id
        case VerifyPolicy.WEEKLY:
            its = Backup.mark == backup.mark
        case VerifyPolicy.NEVER:
            return
        case _:
            assert_never(policy)
    is_idle = backup.verification in {None, VERIFICATION_PASSED}
    if is_idle and not await _has_passed_lately(session, its):
        backup.verification = VERIFICATION_WAITS


async def _has_passed_lately(session: AsyncSession, its: ColumnElement[bool]) -> bool:
    """Whether one of these backups has passed a verification this week, and was not found damaged since."""
    # The clock may have been set back since.
    lately = literal(_LATELY, Interval)
    recent = Backup.verified_at.between(UTC_NOW - lately, UTC_NOW + lately)
    passed = exists().where(its, recent, Backup.verification == VERIFICATION_PASSED)
    return bool(await session.scalar(select(passed)))


async def hold_backup(session: AsyncSession, backup_id: str) -> None:
    """Lock a backup that an instance shall be restored from: until its job has ended, it is not deleted."""
    kept = select(Backup.id).where(Backup.id == UUID(backup_id), Backup.deleted_at.is_(None))
    if await session.scalar(kept.with_for_update(read=True)) is None:
        raise InvalidError({"BackupId": [f"There is no backup {backup_id}."]})


def unlocked(*conditions: ColumnElement[bool]) -> Select[UUID]:
    """The ids of the backups that fulfil the conditions and that no other session has locked; locks them.

    For passes over many backups: one that is missing here is there all the same, and left to the next pass.
    """
    return select(Backup.id).where(*conditions).with_for_update(skip_locked=True)


async def restore_under_way(session: AsyncSession, backup_id: UUID) -> DbInstance | None:
    """An instance whose restore from the backup waits or runs; the caller has locked the backup."""
    its = DbInstance.arguments_column["origin"]["backup_id"].as_string() == str(backup_id)
    restores = select(DbInstance).where(DbInstance.status.in_(UNDER_WAY), MADE_OF_OTHERS, its)
    return (await session.scalars(restores.order_by(DbInstance.id).limit(1))).one_or_none()


async def keep_for_another_restore(session: AsyncSession, job: InstanceJob) -> None:
    """Keep the backup for a while that the job was to restore, which has failed or was cancelled.

    It was requested in time, and may be again. A late attempt whose failure is not recorded keeps it as well.

    The caller records the failure in the same transaction: until then, the restore is under way.
    """
    origin = origin_in(job.arguments)
    if isinstance(origin, BackupOrigin):
        kept = func.greatest(Backup.kept_until, await end_of(session, KEPT_IN_DOUBT))
        restored = update(Backup).where(Backup.id == UUID(origin.backup_id))
        await session.execute(restored.values(kept_until=kept))


def without_zone(time: datetime) -> datetime:
    """The time in UTC without a zone, as the registry holds times."""
    return time.astimezone(UTC).replace(tzinfo=None)
