"""The store of a tenant's backups, as its settings name it."""

import logging
from collections.abc import Collection, Sequence
from operator import attrgetter
from uuid import UUID

from ods.backups.errors import BackupFaultError, MissingObjectError
from ods.backups.layout import folder_of, instance_folder, part_at
from ods.backups.manifest import BackupKey, BackupKind, Manifest
from ods.backups.storage import BackupStore, StoreTimeouts
from ods.backups.stored_backups import delete_backup, has_dump, list_backups, load_if_readable, load_manifest
from ods.databases.errors import DatabaseFaultError
from ods.databases.inspection.change_sign import is_quiet, read_sign
from ods.registry.backups.scheduled import LastBackup
from ods.registry.storage.models import Backup
from ods.settings.settings import Settings
from ods.tenants.tenant import Tenant

_finished_at = attrgetter("finished_at")


async def open_store(settings: Settings, timeouts: StoreTimeouts | None = None) -> BackupStore:
    """The store of backups; credentials are in the environment."""
    if settings.backup_url is None:
        raise BackupFaultError(
            "There is no store of backups. Set ODS_BACKUP_URL for the API and the workers, for example to"
            " file:///srv/backups or s3://bucket/prefix, and restart them."
        )
    return await BackupStore.open(settings.backup_url, timeouts)


async def remove_stored(store: BackupStore, tenant: Tenant, backup: Backup) -> None:
    """Remove what all tries at a deleted backup have stored, unless another installation has made it.

    A copy of a registry knows the backups of the original, which are not its to remove. What a try has stored
    that is recorded as a backup of its own stays. Once the row is gone, the pass would record other tries
    again.
    """
    own = UUID((await tenant.jobs.installation.require_confirmed()).id)
    if backup.installation != own:
        return
    tries = {one.backup_id for one in await _tries(store, tenant, backup)}
    for stored_id in filter(None, {*tries, backup.stored_id}):
        await delete_backup(store, BackupKey(tenant.name, backup.ods_instance_id, stored_id))


async def find_elsewhere(store: BackupStore, tenant: Tenant, backups: Collection[Backup]) -> set[UUID]:
    """Which of these backups, made by this installation, are in another store than this.

    `ODS_BACKUP_URL` named that one when they were made, and they were not copied into this one.
    """
    own = UUID((await tenant.jobs.installation.require_confirmed()).id)
    its = [it for it in backups if it.stored_id is not None and it.installation == own]
    keys = {it.id: key_of(tenant.name, it) for it in its}
    moved = [it.id for it in its if it.location != store.location(folder_of(keys[it.id]))]
    if not moved:
        return set()
    parts = [part_at(found.path) for found in await store.list_objects(tenant.name)]
    here = {part.key for part in parts if part is not None}
    return {backup_id for backup_id in moved if keys[backup_id] not in here}


async def load_recorded(store: BackupStore, tenant: str, backup: Backup) -> Manifest:
    """The manifest of a stored backup, which is the one that the registry has recorded.

    Raises:
        MissingObjectError: it is not stored, or not there any more.
        BackupFaultError: it is damaged or was changed, or another dump; the store is away or refuses.
    """
    manifest = await load_manifest(store, key_of(tenant, backup))
    recorded = (backup.sha256, backup.size_bytes, backup.mark)
    if (manifest.sha256, manifest.size_bytes, manifest.mark) != recorded:
        raise BackupFaultError("What is stored is not what was recorded when the backup was made.")
    if backup.manifest_sha256 != manifest.own_sha256:
        raise BackupFaultError(
            f"The manifest of the backup {backup.id} in {store.location(folder_of(manifest.key))} is not"
            " the one that was recorded: it was changed in the store, and the backup is not used. Find out"
            " who may write to the store. Put the manifest back as it was; or delete the backup, and use"
            " another one."
        )
    return manifest


async def load_whole(store: BackupStore, tenant: str, backup: Backup) -> Manifest | None:
    """The manifest of a backup; None unless manifest and dump are stored as they were recorded."""
    try:
        manifest = await load_recorded(store, tenant, backup)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return None
    return manifest if await has_dump(store, manifest) else None


async def last_stored(store: BackupStore, tenant: Tenant, backup: Backup) -> Manifest | None:
    """The last whole backup that tries at this one have stored, recorded or not; None if there is none.

    The backup was read since its job began. One that is recorded as a backup of its own does not count.
    """
    return await _last_whole(store, await _tries(store, tenant, backup))


async def lost_final(store: BackupStore, tenant: Tenant, backup: Backup) -> Manifest | None:
    """The last whole final backup of the instance that the registry does not know; None if there is none.

    The registry was restored to before the purge that has made it.
    """
    lost = await _manifests(store, tenant, backup)
    return await _last_whole(store, [one for one in lost if one.kind is BackupKind.FINAL])


async def _last_whole(store: BackupStore, manifests: Sequence[Manifest]) -> Manifest | None:
    left = [manifest for manifest in manifests if await has_dump(store, manifest)]
    return max(left, key=_finished_at, default=None)


async def _tries(store: BackupStore, tenant: Tenant, backup: Backup) -> list[Manifest]:
    """What the tries at a backup have stored, as far as there are manifests."""
    found = await _manifests(store, tenant, backup)
    return [one for one in found if one.details.get("backupId") == str(backup.id)]


async def _manifests(store: BackupStore, tenant: Tenant, backup: Backup) -> list[Manifest]:
    """The manifests of a backup, and those of the same instance that no other backup is recorded to have.

    Damaged ones are left out: they must not stop new backups.
    """
    keys = await list_backups(store, instance_folder(tenant.name, backup.ods_instance_id))
    free = [
        key
        for key in keys
        if key.backup_id == backup.stored_id or not await tenant.backups.knows(key.backup_id)
    ]
    found = [await load_if_readable(store, key) for key in free]
    return [manifest for manifest in found if manifest is not None and manifest.mark == backup.mark]


def key_of(tenant: str, backup: Backup) -> BackupKey:
    """Where a backup is in the store."""
    if backup.stored_id is None:
        raise MissingObjectError(f"The backup {backup.id} is not stored.")
    return BackupKey(tenant, backup.ods_instance_id, backup.stored_id)


_logger = logging.getLogger(__name__)


async def is_unchanged(tenant: Tenant, last: LastBackup) -> bool:
    """Whether a backup made now would have the data of the last one, which is still stored.

    Uncertain counts as changed: the server or the store is away, a session works in the database, PostgreSQL
    has lost its statistics, or the last backup is not encrypted to the recipients of now.
    """
    backup = last.backup
    try:
        async with tenant.server.connected(last.database) as session:
            if not await is_quiet(session) or await read_sign(session) != backup.change_sign:
                return False
        stored = await load_whole(await open_store(tenant.settings), tenant.name, backup)
        return stored is not None and stored.is_encrypted_to(tenant.settings.recipients)
    except (DatabaseFaultError, BackupFaultError) as fault:
        _logger.info("Whether %s has changed is not known: %s", backup.name, fault.reason)
        return False
