"""The backups of a store: listing them, reading what one is, deleting one, removing unfinished ones."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from backups.errors import BackupFaultError, MissingObjectError
from backups.layout import Part, folder_of, manifest_of, marker_of, part_at
from backups.manifest import BackupKey, Manifest, read_manifest
from backups.markers import LEASE
from backups.storage import BackupStore


async def list_backups(store: BackupStore, folder: str = "") -> list[BackupKey]:
    """The backups of a store, or below one of its folders; one without a manifest does not exist.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    parts = [part_at(found.path) for found in await store.list_objects(folder)]
    return [part.key for part in parts if part is not None and part.is_manifest]


async def load_manifest(store: BackupStore, key: BackupKey) -> Manifest:
    """What is known of a backup.

    Raises:
        MissingObjectError: there is no such backup.
        BackupFaultError: its manifest is damaged, or of a newer release; the store is away or refuses.
    """
    path = manifest_of(key)
    content = await store.read(path)
    if content is None:
        raise MissingObjectError(f"There is no backup at {store.location(folder_of(key))}.")
    try:
        manifest = read_manifest(content)
    except BackupFaultError as fault:
        raise BackupFaultError(f"{store.location(path)}: {fault.reason}") from None
    if manifest.key != key:
        raise BackupFaultError(f"{store.location(path)} is the manifest of another backup.")
    return manifest


async def delete_backup(store: BackupStore, key: BackupKey) -> None:
    """Delete a backup, or what there is of it: its manifest first, so that the rest counts as unfinished.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    await store.delete(manifest_of(key))
    await store.delete_folder(folder_of(key))


async def remove_unfinished(store: BackupStore, older_than: timedelta) -> list[BackupKey]:
    """Remove what backups have left that were interrupted while they were written or deleted.

    A backup that is being written has no manifest, but a marker that its writer renews every minute. A writer
    that could not renew it for longer than `LEASE` gives up. So what has no manifest, and no object that is
    younger than `older_than`, has no writer.

    Args:
        store: the store.
        older_than: `LEASE` three times at least: a writer's last step may take as long again, and the clocks
            of this machine and of the store may differ.

    Returns:
        The backups of which something was removed.

    Raises:
        ValueError: `older_than` is too short.
        BackupFaultError: the store is away or refuses.
    """
    if older_than < 3 * LEASE:
        raise ValueError(f"older_than must be {3 * LEASE} at least")
    modified: dict[BackupKey, datetime] = defaultdict(lambda: datetime.min.replace(tzinfo=UTC))
    parts: dict[BackupKey, list[Part]] = defaultdict(list)
    for found in await store.list_objects():
        if (part := part_at(found.path)) is not None:
            modified[part.key] = max(modified[part.key], found.modified)
            parts[part.key].append(part)
    before = datetime.now(UTC) - older_than
    old = [key for key in parts if modified[key] < before]
    return [key for key in old if await _removed(store, key, parts[key])]


async def _removed(store: BackupStore, key: BackupKey, parts: list[Part]) -> bool:
    """Remove what is left of a backup that is not being written; returns whether there was something."""
    if not any(part.is_manifest for part in parts):
        await store.delete_folder(folder_of(key))
        return True
    if any(part.is_marker for part in parts):
        await store.delete(marker_of(key))
        return True
    return False
