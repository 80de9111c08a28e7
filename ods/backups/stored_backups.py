"""The backups of a store: listing them, reading what one is, deleting one, removing unfinished ones."""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ods.backups.errors import BackupFaultError, MissingObjectError
from ods.backups.layout import TIME_OF_STORE, Part, dump_of, folder_of, manifest_of, marker_of, part_at
from ods.backups.manifest import BackupKey, Manifest, read_manifest
from ods.backups.markers import LEASE
from ods.backups.storage import BackupStore, StoredObject

_logger = logging.getLogger(__name__)


async def list_backups(store: BackupStore, folder: str = "") -> dict[BackupKey, int]:
    """The backups of a store, or below one of its folders, and how many bytes the dump of each has.

    One without a manifest does not exist; that of one without a dump, which cannot be used, has none.
    """
    objects = await store.list_objects(folder)
    parts = [(part, it.size_bytes) for it in objects if (part := part_at(it.path)) is not None]
    dumps = {part.key: size_bytes for part, size_bytes in parts if part.is_dump}
    return {part.key: dumps.get(part.key, 0) for part, _ in parts if part.is_manifest}


async def load_manifest(store: BackupStore, key: BackupKey) -> Manifest:
    """What is known of a backup.

    The name of its tenant is that of its folder: it may be moved to another one when the tenant is renamed.

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
    own = replace(manifest, tenant=key.tenant)
    if own.key != key:
        raise BackupFaultError(f"{store.location(path)} is the manifest of another backup.")
    return own


async def load_if_readable(store: BackupStore, key: BackupKey) -> Manifest | None:
    """The same; None if it is gone, damaged, of a newer release, or may not be read."""
    try:
        return await load_manifest(store, key)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return None


async def has_dump(store: BackupStore, manifest: Manifest) -> bool:
    """Whether the dump of a backup is stored, with the size that its manifest tells.

    A store may have written the manifest late, after the dump was deleted; or the dump was deleted by hand.
    """
    wanted = (dump_of(manifest.key, encrypted=manifest.encrypted), manifest.size_bytes)
    found = await store.list_objects(folder_of(manifest.key))
    return wanted in {(it.path, it.size_bytes) for it in found}


async def delete_backup(store: BackupStore, key: BackupKey) -> None:
    """Delete a backup, or what there is of it.

    Its manifest goes first, so that what is left is no backup; the marker of its writer last, so that what is
    left of an unfinished one is known to be that.
    """
    await store.delete(manifest_of(key))
    for found in await store.list_objects(folder_of(key)):
        if found.path != marker_of(key):
            await store.delete(found.path)
    await store.delete_folder(folder_of(key))


async def remove_unfinished(
    store: BackupStore,
    older_than: timedelta,
    is_kept: Callable[[BackupKey], Awaitable[bool]] | None = None,
    removing: Callable[[BackupKey], AbstractContextManager[object]] = nullcontext,
) -> list[BackupKey]:
    """Remove what backups have left that were interrupted while they were written.

    A backup that is being written has no manifest, but a marker that its writer renews every minute. A writer
    that could not renew it for longer than `LEASE` gives up. So what has a marker, no manifest, and no object
    that is younger than `older_than`, has no writer.

    What has neither stays: its manifest was lost or not copied yet, as when a store is put back, and another
    installation may know the backup; or it was being deleted, which its registry goes on with.

    Its age is that by the clock of the store, which is asked by writing an object: the clock of this machine
    may be another one.

    Args:
        store: the store.
        older_than: `LEASE` three times at least: a writer's last step may take as long again.
        is_kept: whether what has a marker and no manifest stays all the same.
        removing: the context in which each is removed; it may suppress the fault, and the others follow.

    Returns:
        The backups of which something was removed.

    Raises:
        ValueError: `older_than` is too short.
    """
    if older_than < 3 * LEASE:
        raise ValueError(f"older_than must be {3 * LEASE} at least")
    if not _unfinished(await store.list_objects()):
        return []
    now, objects = await _moment(store)
    if now is None:
        return []
    old = {key: it for key, it in _unfinished(objects).items() if it.modified < now - older_than}
    removed = []
    for key, it in old.items():
        if not it.is_whole and is_kept is not None and await is_kept(key):
            continue
        if not it.is_whole and not it.is_marked:
            _logger.warning(
                "%s has no manifest, and no marker of a writer: it stays. Put the manifest back; or, if it is"
                " of no use to any installation, remove the folder by hand.",
                store.location(folder_of(key)),
            )
            continue
        with removing(key):
            if it.is_whole:
                await store.delete(marker_of(key))
            else:
                await delete_backup(store, key)
            removed.append(key)
    return removed


async def _moment(store: BackupStore) -> tuple[datetime | None, list[StoredObject]]:
    """The time by the clock of the store, and its objects then.

    The time is not known if another pass that asks for it as well is done with that.
    """
    await store.write(TIME_OF_STORE, b"\n")
    try:
        objects = await store.list_objects()
    finally:
        await store.delete(TIME_OF_STORE)
    times = [found.modified for found in objects if found.path == TIME_OF_STORE]
    return max(times, default=None), objects


@dataclass(frozen=True)
class _Unfinished:
    """What there is of a backup that is being written or deleted, was interrupted, or has lost a part.

    Attributes:
        modified: when the last of its objects was written.
        is_whole: whether it is a backup, beside which a marker was left.
        is_marked: whether it has the marker of its writer.
    """

    modified: datetime
    is_whole: bool
    is_marked: bool


def _unfinished(objects: Iterable[StoredObject]) -> Mapping[BackupKey, _Unfinished]:
    modified: dict[BackupKey, list[datetime]] = defaultdict(list)
    parts: dict[BackupKey, list[Part]] = defaultdict(list)
    for found in objects:
        if (part := part_at(found.path)) is not None:
            modified[part.key].append(found.modified)
            parts[part.key].append(part)
    finished = {key for key, found in parts.items() if any(part.is_manifest for part in found)}
    marked = {key for key, found in parts.items() if any(part.is_marker for part in found)}
    return {
        key: _Unfinished(max(modified[key]), key in finished, key in marked)
        for key in parts.keys() - finished | marked
    }
