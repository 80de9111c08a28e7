"""Where the parts of a backup are in a store: `<tenant>/<OdsInstanceId>/<backup id>/…`.

A backup is there if its manifest is, which is written last and deleted first.
"""

import re
from dataclasses import dataclass
from uuid import UUID

from ods.backups.manifest import TENANT_PATTERN, BackupKey

_MANIFEST = "manifest.json"
_PLAIN_DUMP, _ENCRYPTED_DUMP = "database.dump", "database.dump.age"
_MARKER = "being-written"
TIME_OF_STORE = "time-of-the-store"
"""An object that is written in order to see which time it is for the store."""
IDENTITIES = "_store"
"""The folder of the ids of a store, and of the claims to clean it; no tenant has such a name."""
_ID = "(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_PATH = re.compile(rf"(?P<tenant>{TENANT_PATTERN.strip('^$')})/(?P<number>\d{{1,10}})/{_ID}/(?P<file>[^/]+)")
_CLAIM = re.compile(rf"(?P<number>\d{{1,18}})-{_ID}")


def identity_of(identity: UUID) -> str:
    """The object by which a store has this id."""
    return f"{IDENTITIES}/{identity}"


def identity_at(path: str) -> UUID | None:
    """The id that a store has by the object of this path; None if that is another object."""
    try:
        identity = UUID(path.removeprefix(f"{IDENTITIES}/"))
    except ValueError:
        return None
    return identity if identity_of(identity) == path else None


def claims_of(tenant: str, installation: UUID) -> str:
    """The folder of the claims to clean a store that the registries of a tenant and installation have."""
    return f"{IDENTITIES}/{tenant}/{installation}"


def claim_of(folder: str, number: int, claim_id: UUID) -> str:
    """The object of such a claim."""
    return f"{folder}/{number}-{claim_id}"


def claim_at(folder: str, path: str) -> tuple[int, UUID] | None:
    """Number and id of the claim with this path; None if that is another object."""
    if (found := _CLAIM.fullmatch(path.removeprefix(f"{folder}/"))) is None:
        return None
    return int(found["number"]), UUID(found["id"])


def instance_folder(tenant: str, ods_instance_id: int) -> str:
    """The folder of the backups of an instance, and of others that had its OdsInstanceId."""
    return f"{tenant}/{ods_instance_id}"


def folder_of(key: BackupKey) -> str:
    """The folder of a backup."""
    return f"{instance_folder(key.tenant, key.ods_instance_id)}/{key.backup_id}"


def manifest_of(key: BackupKey) -> str:
    """The manifest of a backup."""
    return f"{folder_of(key)}/{_MANIFEST}"


def dump_of(key: BackupKey, *, encrypted: bool) -> str:
    """The dump of a backup."""
    return f"{folder_of(key)}/{_ENCRYPTED_DUMP if encrypted else _PLAIN_DUMP}"


def marker_of(key: BackupKey) -> str:
    """The object that is renewed while a backup is written."""
    return f"{folder_of(key)}/{_MARKER}"


@dataclass(frozen=True)
class Part:
    """An object that belongs to a backup, finished or not."""

    key: BackupKey
    file: str

    @property
    def is_manifest(self) -> bool:
        """Whether the backup is there."""
        return self.file == _MANIFEST

    @property
    def is_dump(self) -> bool:
        """Whether it has what was in the database."""
        return self.file in {_PLAIN_DUMP, _ENCRYPTED_DUMP}

    @property
    def is_marker(self) -> bool:
        """Whether it is renewed while the backup is written."""
        return self.file == _MARKER


def part_at(path: str) -> Part | None:
    """The part of a backup that has this path; None for what is no part of any."""
    if (found := _PATH.fullmatch(path)) is None:
        return None
    return Part(BackupKey(found["tenant"], int(found["number"]), UUID(found["id"])), found["file"])
