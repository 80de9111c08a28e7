"""The backup of a database in the trash that is made before it is dropped."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
from temporalio import activity

from activities.backup_requests import backup_request, stored_backup
from activities.errors import as_application_error
from activities.following import Following, require_session, watched
from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError
from ods.backups.layout import folder_of
from ods.backups.manifest import Manifest
from ods.backups.monitoring import program_log
from ods.backups.restoring import read_dump
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner
from ods.databases.trash import require_no_version_in_trash
from ods.databases.trash_backup import inspect_trash, while_open
from ods.registry.backups.records import proven_state
from ods.registry.backups.rows import VERIFICATION_FAILED, without_zone
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import last_stored, load_whole, lost_final
from ods.tenants.known_store import known_store, store_for_backup, unshared_store
from ods.tenants.tenant import Tenant

_JUST_NOW = timedelta(seconds=10)
"""How long ago a backup may have been verified that is not read again before its database is dropped."""
_STATE_UNKNOWN = ""
"""In place of the state of a database: no database has it."""


class FollowingPurges:
    """Requests the purges that clients have requested together with deletes.

    Args:
        instances: takes the requests.
    """

    def __init__(self, instances: InstanceStore) -> None:
        self._instances = instances

    @activity.defn
    async def request_purge_after(self, trashed: InstanceJob) -> InstanceJob | None:
        """Record the purge that is to follow a delete, which is done; None if none is to follow any more."""
        with as_application_error():
            return await self._instances.request_purge_after(trashed)


async def make_final_backup(  # noqa: PLR0913, PLR0917 - the parts of a step
    tenant: Tenant,
    session: asyncpg.Connection,
    job: InstanceJob,
    owner: KnownOwner,
    following: Following,
    report: Callable[[], Awaitable[object]],
) -> bool:
    """Store a backup of the database in the trash and record it, unless there is one of it as it is now.

    Nothing is made if there is no database to drop any more, nor if a DROP of it, which was backed up, was
    interrupted. Returns whether there is a database; if not, what an earlier try has stored is recorded, and
    if none has stored anything, what the instance had before a reset must not be all that is left.

    Args:
        tenant: the tenant.
        session: a fenced session. As soon as it has ended, the backup ends as well.
        job: the purge.
        owner: the instance.
        following: told how far the backup is.
        report: awaited each second meanwhile.

    Raises:
        NotOursError: the database in the trash is not the instance's.
        DisagreementError: registry and server do not agree that it is in the trash; or a DROP has begun; or
            only what the instance had before a reset is left.
        BackupFaultError: pg_dump is missing or older than the server, the store is another one, …
        DatabaseFaultError: a client has deleted the backup, the server is away, …
    """
    trash = job.trash_database or ""
    found = await inspect_trash(session, owner, trash)
    if found is None:
        if not await _record_last_try(tenant, job):
            await require_no_version_in_trash(session, owner)
        return False
    backup = await _backup_of(tenant, job)
    if found.invalid and proven_state(backup) == found.state:
        return True
    store = await store_for_backup(tenant)
    if not found.invalid and await _shows(store, tenant, backup, found.state):
        return True

    async def store_backup() -> Manifest:
        request = await backup_request(tenant, backup, trash)
        with program_log() as log:
            monitor = replace(log, report=following.report)
            making = back_up(
                Database(tenant.server, trash), store, request, monitor, tenant.settings.recipients
            )
            return await watched(making, require_session(session, report))

    made, closed = await while_open(session, owner, trash, job.job_id, store_backup)
    stored = stored_backup(made, store.location(folder_of(made.key)))
    if not await tenant.jobs.record_final_backup(job, stored, closed):
        raise _deleted(job)
    return True


async def require_final_backup(tenant: Tenant, job: InstanceJob) -> None:
    """Check that the backup that the purge has made is in the known store, and for the recipients of now.

    Unless it was verified just now, it is read again: since then, as before a retry or in an outage, the
    store may have been put back or damaged.

    Raises:
        BackupFaultError: it is not, or is damaged; the store is another one, is away or refuses.
        DatabaseFaultError: a client has deleted the backup.
    """
    backup, store = await _backup_of(tenant, job), await known_store(tenant)
    stored = await load_whole(store, tenant.name, backup)
    if stored is None:
        raise BackupFaultError(
            f"The backup {backup.id} is not in {store.location()} any more. Nothing was dropped. Retry:"
            " another one is made."
        )
    if not stored.is_encrypted_to(tenant.settings.recipients):
        raise BackupFaultError(
            f"The backup {backup.id} is not encrypted to just the keys that ODS_BACKUP_RECIPIENTS names now."
            " Nothing was dropped. Retry: another one is made."
        )
    if not _was_verified_just_now(backup):
        await _require_undamaged(store, tenant, backup, stored)


def _was_verified_just_now(backup: Backup) -> bool:
    """Whether it was; a clock of this machine that differs from the registry's has it read once more."""
    now = without_zone(datetime.now(UTC))
    return backup.verified_at is not None and abs(now - backup.verified_at) < _JUST_NOW


async def _require_undamaged(store: BackupStore, tenant: Tenant, backup: Backup, stored: Manifest) -> None:
    """Read what is stored of a backup that was verified, and record it if that is damaged by now.

    Raises:
        BackupFaultError: it is; or the store is away or refuses.
    """
    try:
        async for _ in read_dump(store, stored):
            pass
    except BackupFaultError as fault:
        if not fault.is_verdict:
            raise
        await tenant.backups.finish_proof(backup, fault.reason)
        raise BackupFaultError(f"{fault.reason} Nothing was dropped. Retry: another one is made.") from None


async def _record_last_try(tenant: Tenant, job: InstanceJob) -> bool:
    """Record what an earlier try has stored and could not record: with the database gone, it is all there is.

    Or what an earlier purge has stored, of which the registry knows nothing since it was restored. The pass
    verifies it. Returns whether a backup is recorded, by now or before.
    """
    if (backup := await tenant.backups.final_of(job)) is None:
        return False
    store = await unshared_store(tenant)
    last = await last_stored(store, tenant, backup) or await lost_final(store, tenant, backup)
    if last is None or (backup.finished_at and backup.finished_at >= without_zone(last.finished_at)):
        return backup.stored_id is not None
    stored = stored_backup(last, store.location(folder_of(last.key)))
    return await tenant.jobs.record_final_backup(job, stored, _STATE_UNKNOWN)


async def _backup_of(tenant: Tenant, job: InstanceJob) -> Backup:
    if (backup := await tenant.backups.final_of(job)) is None:
        raise _deleted(job)
    return backup


async def _shows(store: BackupStore, tenant: Tenant, backup: Backup, state: str) -> bool:
    """Whether the backup is stored, for the recipients of now, and shows the database as it is now."""
    if backup.database_state != state or backup.verification == VERIFICATION_FAILED:
        return False
    stored = await load_whole(store, tenant.name, backup)
    return stored is not None and stored.is_encrypted_to(tenant.settings.recipients)


def _deleted(job: InstanceJob) -> DatabaseFaultError:
    return DatabaseFaultError(
        f"The backup {job.makes_backup} was deleted before the database was dropped. Nothing was dropped."
        f" Request it again: DELETE /v2/trash/{job.instance_id}?finalBackup=true, or `ods instance purge"
        " --final-backup`."
    )
