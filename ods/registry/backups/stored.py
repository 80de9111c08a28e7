"""What is known of a backup once it is stored, as it travels from the worker to the registry."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ods.registry.instances.jobs import InstanceJob


@dataclass(frozen=True)
class StoredBackup:
    """A backup that is stored, and visible.

    Each try to make a backup has a `stored_id` of its own. `location` is the URL of its folder, without
    credentials. `sha256` is of the stored bytes, `manifest_sha256` of the manifest as it was written, both in
    hexadecimal digits. The data are of the moment `taken_at`. `change_sign` tells the database of a scheduled
    one from one that has changed since; None if that is not known.
    """

    stored_id: str
    location: str
    size_bytes: int
    database_size_bytes: int
    sha256: str
    manifest_sha256: str
    postgres_version: str
    encrypted: bool
    taken_at: datetime
    finished_at: datetime
    change_sign: str | None = None


@dataclass(frozen=True)
class LostBackup:
    """A backup that a restored registry has no row of, by its manifest; of the instance as it was then."""

    id: UUID
    ods_instance_id: int
    mark: UUID
    name: str
    kind: str
    template: str | None
    details: dict[str, Any]
    installation: UUID
    stored: StoredBackup


@dataclass(frozen=True)
class FinishedBackup:
    """The job that has made a backup, and what it has stored."""

    job: InstanceJob
    stored: StoredBackup


@dataclass(frozen=True)
class RecordedBackup:
    """Whether a backup was the job's to record, and whether it is to be verified now."""

    recorded: bool
    verify: bool = False
