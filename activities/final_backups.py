"""The backup of a database in the trash that is made before it is dropped."""

from datetime import UTC, datetime, timedelta

from activities.backup_requests import backup_request, stored_backup
from activities.following import FencedWork
from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError
from ods.backups.layout import folder_of
from ods.backups.manifest import Manifest
from ods.backups.restoring import read_dump
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.droppable import find_in_trash
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner
from ods.databases.remains import require_no_version_in_trash
from ods.databases.trash_backup import while_open
from ods.registry.backups.records import proven_state
from ods.registry.backups.rows import VERIFICATION_FAILED, without_zone
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import last_stored, load_whole, lost_final
from ods.tenants.known_store import known_store, store_for_backup, unshared_store
from ods.tenants.tenant import Tenant

_JUST_NOW = timedelta(seconds=10)
"""How long ago a backup may have been verified that is not read again before its database is dropped."""
_STATE_UNKNOWN = ""
"""In place of the state of a database: no database has it."""


async def make_final_backup(tenant: Tenant, work: FencedWork, job: InstanceJob, owner: KnownOwner) -> bool:
    """Store a backup of the database in the trash and record it, unless there is one of it as it is now.

    Nothing is made if there is no database to drop any more, nor if a DROP of it, which was backed up, was
    interrupted. Returns whether there is a database; if not, what an earlier try has stored is recorded, and
    if none has stored anything, what the instance had before a reset must not be all that is left.
    """
    session, trash = work.session, job.trash_database or ""
    found = await find_in_trash(session, owner, trash)
    if found is None:
        if not await _record_last_try(tenant, job):
            await require_no_version_in_trash(session, owner)
        return False
    backup = await _backup_of(tenant, job)
    if found.is_invalid and proven_state(backup) == found.state:
        return True
    store = await store_for_backup(tenant)
    if not found.is_invalid and await _shows(store, tenant, backup, found.state):
        return True

    async def store_backup() -> Manifest:
        request = await backup_request(tenant, backup, trash)
        with work.following.monitor() as monitor:
            making = back_up(
                Database(tenant.server, trash), store, request, monitor, tenant.settings.recipients
            )
            return await work.done(making)

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
