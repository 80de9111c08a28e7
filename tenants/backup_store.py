"""The store of a tenant's backups, as its settings name it."""

from uuid import UUID

from backups.errors import BackupFaultError, MissingObjectError
from backups.layout import dump_of, folder_of
from backups.manifest import BackupKey, Manifest
from backups.readiness import require_programs
from backups.storage import BackupStore
from backups.stored_backups import delete_backup, load_manifest
from databases.server import Server
from registry.storage.models import Backup
from settings import Settings
from tenants.tenant import Tenant


def open_store(settings: Settings) -> BackupStore:
    """The store of backups; credentials are in the environment.

    Raises:
        BackupFaultError: none is configured, its folder does not exist, or there are no credentials.
    """
    if settings.backup_url is None:
        raise BackupFaultError(
            "There is no store of backups. Set ODS_BACKUP_URL for the API and the workers, for example to"
            " file:///srv/backups or s3://bucket/prefix, and restart them."
        )
    return BackupStore(settings.backup_url)


async def backup_obstacle(settings: Settings, server: Server) -> str | None:
    """Why no backup can be made here; None if one can.

    Raises:
        BackupFaultError: the server is away.
    """
    try:
        open_store(settings)
        await require_programs(server)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return fault.reason
    return None


async def remove_stored(store: BackupStore, tenant: Tenant, backup: Backup) -> None:
    """Remove what is stored of a deleted backup, unless another installation has made it.

    A copy of a registry knows the backups of the original, which are not its to remove.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    own = UUID((await tenant.jobs.installation.require_confirmed()).id)
    if backup.stored_id is not None and backup.installation == own:
        await delete_backup(store, key_of(tenant.name, backup))


async def load_recorded(store: BackupStore, tenant: str, backup: Backup) -> Manifest:
    """What is known of a stored backup, which is the one that the registry has recorded.

    Raises:
        MissingObjectError: it is not stored, or not there any more.
        BackupFaultError: it is damaged, or another dump; the store is away or refuses.
    """
    manifest = await load_manifest(store, key_of(tenant, backup))
    recorded = (backup.sha256, backup.size_bytes, backup.mark)
    if (manifest.sha256, manifest.size_bytes, manifest.mark) != recorded:
        raise BackupFaultError("What is stored is not what was recorded when the backup was made.")
    return manifest


async def is_whole(store: BackupStore, tenant: str, backup: Backup) -> bool:
    """Whether manifest and dump of a backup are stored, and the manifest is the one that was recorded.

    Raises:
        BackupFaultError: the store is away.
    """
    try:
        manifest = await load_recorded(store, tenant, backup)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return False
    folder = await store.list_objects(folder_of(manifest.key))
    return dump_of(manifest.key, encrypted=manifest.encrypted) in {found.path for found in folder}


def key_of(tenant: str, backup: Backup) -> BackupKey:
    """Where a backup is in the store.

    Raises:
        MissingObjectError: it is not stored.
    """
    if backup.stored_id is None:
        raise MissingObjectError(f"The backup {backup.id} is not stored.")
    return BackupKey(tenant, backup.ods_instance_id, backup.stored_id)
