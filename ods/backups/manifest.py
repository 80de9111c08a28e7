"""The manifest of a backup: JSON beside the dump, which tells without a registry what the dump is."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from ods.backups.errors import BackupFaultError

FORMAT_VERSION = 1
"""Of what this module writes; a release that must change the meaning of a field raises it."""

TENANT_PATTERN = "^[A-Za-z0-9-]{1,50}$"
"""Of the names of tenants: they are parts of paths."""

_Count = Annotated[int, Field(ge=0)]
_STRICT = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


class BackupKind(StrEnum):
    """Why a backup was made."""

    REQUESTED = "requested"
    SCHEDULED = "scheduled"
    FINAL = "final"
    """Made before the instance was deleted."""


@dataclass(frozen=True)
class Figures:
    """What can be counted in a database, to compare it with a copy.

    Attributes:
        tables: the number of rows of each table, by `schema.table`.
        sequences: the last value of each ascending sequence, by `schema.sequence`; None if it gave none yet.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    tables: Mapping[str, _Count]
    sequences: Mapping[str, int | None]


@dataclass(frozen=True)
class BackupKey:
    """Which backup, and of which instance."""

    tenant: str
    ods_instance_id: int
    backup_id: UUID

    def __post_init__(self) -> None:
        """Refuse what would be another path.

        Raises:
            ValueError: the tenant has no such name.
        """
        if not re.fullmatch(TENANT_PATTERN, self.tenant):
            raise ValueError("the name of a tenant has 1 to 50 letters (A to Z), digits and hyphens")


@dataclass(frozen=True)
class BackupRequest:
    """What is known of a backup before it is made.

    `details` are contexts, labels, a description: what the caller wants to have back; nothing here reads
    that.
    """

    key: BackupKey
    mark: UUID
    name: str
    kind: BackupKind
    template: str | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is known of a backup once it is made.

    Attributes:
        format_version: of the manifest and of the names of objects.
        backup_id: as in `BackupKey`, like tenant and ods_instance_id.
        mark: as in `BackupRequest`, like name, kind, template and details.
        postgres_version: of the server that the database was on.
        dump_version: of the pg_dump that wrote the dump; an older pg_restore may not read it.
        size_bytes: what is stored.
        database_size_bytes: what the database took on the server.
        sha256: of the bytes that are stored, in hexadecimal digits.
        created_at: when the dump began; it shows the database at this time.
        finished_at: when it was stored.
        encrypted: whether the stored bytes are encrypted with age.
        recipients: the public keys that they are encrypted to, sorted; the dump does not tell them.
        figures: what could be counted in the database at that time.
        own_sha256: of the manifest itself, as it is stored; empty until it is.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    format_version: Annotated[int, Field(ge=1)]
    backup_id: UUID
    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)]
    ods_instance_id: int
    mark: UUID
    name: str
    kind: BackupKind
    template: str | None
    postgres_version: str
    dump_version: str
    size_bytes: _Count
    database_size_bytes: _Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    finished_at: AwareDatetime
    encrypted: bool
    recipients: Sequence[str]
    details: Mapping[str, JsonValue]
    figures: Figures
    own_sha256: Annotated[str, Field(exclude=True)] = field(default="", compare=False)

    @property
    def key(self) -> BackupKey:
        """Which backup it is."""
        return BackupKey(self.tenant, self.ods_instance_id, self.backup_id)

    def is_encrypted_to(self, recipients: Sequence[str]) -> bool:
        """Whether the dump is encrypted to just these public keys; for none, whether it is not encrypted."""
        return [*self.recipients] == sorted(set(recipients))

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return _ADAPTER.dump_json(self, by_alias=True, indent=2)


def read_manifest(content: bytes) -> Manifest:
    """Read a manifest as `Manifest.to_json` writes it.

    Raises:
        BackupFaultError: it is damaged, or a newer release has written it.
    """
    version = _version(content)
    if version is not None and version > FORMAT_VERSION:
        raise BackupFaultError(
            f"A newer release of this service has written the manifest, in format {version}; this one reads"
            f" formats up to {FORMAT_VERSION}. Use that release."
        )
    try:
        return replace(_ADAPTER.validate_json(content), own_sha256=sha256(content).hexdigest())
    except ValidationError:
        raise BackupFaultError(
            "The manifest is damaged: it is no JSON, or fields are missing or wrong."
        ) from None


_ADAPTER = TypeAdapter(Manifest)


def _version(content: bytes) -> int | None:
    """The version of the format; None if there is none to be read."""
    try:
        fields = json.loads(content)
    except ValueError:
        return None
    version = fields.get("formatVersion") if isinstance(fields, dict) else None
    return version if isinstance(version, int) else None
