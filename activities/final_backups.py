"""The backup of a database in the trash that is made before it is dropped."""

from datetime import UTC, datetime, timedelta

from activities.backup_requests import backup_request, stored_backup
from activities.following import FencedWork
from ods.backups.backing_up import back_up
from ods.backups.errors import BackupFaultError
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
"""A backup that was verified within this time is not read again before its database is dropped."""
_STATE_UNKNOWN = ""
"""In place of the state of a database: no database has it."""


async def make_final_backup(tenant: Tenant, work: FencedWork, job: InstanceJob, owner: KnownOwner) -> bool:
    """Store a backup of the database in the trash and record it, unless there is one of it as it is now.

    Nothing is made if there is no database any more, or if a DROP of it was interrupted and it was backed up
    before. Returns whether there is a database. If there is none, a backup that an earlier try has stored is
    recorded; if no try has, a database from before a reset must not be all that is left.
    """
    session, trash = work.session, job.trash_database
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
    stored = stored_backup(made, store)
    if not await tenant.jobs.record_final_backup(job, stored, closed):
        raise _deleted(job)
    return True


async def require_final_backup(tenant: Tenant, job: InstanceJob) -> None:
    """Check that the purge's backup is in the known store, and encrypted for the recipients of now.

    It is read again unless it was verified just now: the store may have been put back or damaged since.

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
    """Whether it was, by this machine's clock; if that is wrong, the backup is read once more."""
    now = without_zone(datetime.now(UTC))
    return backup.verified_at is not None and abs(now - backup.verified_at) < _JUST_NOW


async def _require_undamaged(store: BackupStore, tenant: Tenant, backup: Backup, stored: Manifest) -> None:
    """Read a backup that was verified; if it is damaged by now, record that and refuse to drop."""
    try:
        async for _ in read_dump(store, stored):
            pass
    except BackupFaultError as fault:
        if not fault.is_verdict:
            raise
        await tenant.backups.finish_proof(backup, fault.reason)
        raise BackupFaultError(f"{fault.reason} Nothing was dropped. Retry: another one is made.") from None


async def _record_last_try(tenant: Tenant, job: InstanceJob) -> bool:
    """Record what an earlier try has stored and could not record; returns whether a backup is recorded.

    It may be of a purge that a restored registry has forgotten. With the database gone, it is all there is;
    the pass verifies it.
    """
    if (backup := await tenant.backups.final_of(job)) is None:
        return False
    store = await unshared_store(tenant)
    last = await last_stored(store, tenant, backup) or await lost_final(store, tenant, backup)
    if last is None or (backup.finished_at and backup.finished_at >= without_zone(last.finished_at)):
        return backup.stored_id is not None
    return await tenant.jobs.record_final_backup(job, stored_backup(last, store), _STATE_UNKNOWN)


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
