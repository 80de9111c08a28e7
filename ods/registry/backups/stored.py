"""What is known of a backup once it is stored, as it travels from the worker to the registry."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ods.registry.instances.jobs import InstanceJob


@dataclass(frozen=True)
class StoredBackup:
    """A backup that is stored, and visible.

    Attributes:
        stored_id: the id under which it is stored; each try to make a backup has one of its own.
        location: the URL of its folder, without credentials.
        size_bytes: what is stored.
        database_size_bytes: what the database took on the server.
        sha256: of the stored bytes, in hexadecimal digits.
        postgres_version: of the server that the database was on.
        encrypted: whether the stored bytes are encrypted with age.
        taken_at: the moment whose data it has.
        finished_at: when it was stored.
        change_sign: of a scheduled one, what tells its database from one that has changed since; None if
            that is not known.
        manifest_sha256: of the manifest, as it was written; None if an earlier release has stored it.
    """

    stored_id: str
    location: str
    size_bytes: int
    database_size_bytes: int
    sha256: str
    postgres_version: str
    encrypted: bool
    taken_at: datetime
    finished_at: datetime
    change_sign: str | None = None
    manifest_sha256: str | None = None


@dataclass(frozen=True)
class LostBackup:
    """A backup that a restored registry has no row of, by its manifest.

    Attributes:
        id: the id that its row had.
        ods_instance_id: the OdsInstanceId that its instance had.
        mark: the instance's mark.
        name: the instance's name then.
        kind: why it was made.
        template: the template that the instance was made of; None if that is not known.
        details: as in the row.
        installation: the one that has made it.
        stored: what is stored.
    """

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
