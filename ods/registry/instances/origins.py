"""Where the database of an instance comes from: its template, another instance, or a backup."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never
from uuid import UUID


class CopyMode(StrEnum):
    """How an instance is copied.

    `ONLINE`: by dump and restore, while the source is used. `CLOSED`: its files, while it cannot be used.
    """

    ONLINE = "online"
    CLOSED = "closed"


@dataclass(frozen=True)
class TemplateOrigin:
    """The database is a clone of the instance's template."""


@dataclass(frozen=True)
class CopyOrigin:
    """The database is a copy of another instance's.

    Attributes:
        instance_id: key of that instance, the source, in `adminapi.dbinstances`.
        mode: how it is copied.
        mark: the mark of the source; None as long as the request has not looked it up.
    """

    instance_id: int
    mode: CopyMode = CopyMode.ONLINE
    mark: str | None = None


@dataclass(frozen=True)
class BackupOrigin:
    """The database is restored from a backup.

    Attributes:
        backup_id: the backup.
    """

    backup_id: str


Origin: TypeAlias = TemplateOrigin | CopyOrigin | BackupOrigin

FROM_TEMPLATE = TemplateOrigin()


def origin_of(copy_of: CopyOrigin | None, backup_id: str | None) -> Origin:
    """The origin that jobs and rows hold in two fields; without either it is the template."""
    if copy_of is not None:
        return copy_of
    return FROM_TEMPLATE if backup_id is None else BackupOrigin(backup_id)


def origin_columns(origin: Origin) -> dict[str, object]:
    """The columns of a row that hold the origin; those of the other origins are null."""
    columns: dict[str, object] = dict.fromkeys(("copy_of", "copy_mode", "source_mark", "backup_id"))
    match origin:
        case TemplateOrigin():
            return columns
        case CopyOrigin():
            mark = None if origin.mark is None else UUID(origin.mark)
            return {**columns, "copy_of": origin.instance_id, "copy_mode": origin.mode, "source_mark": mark}
        case BackupOrigin():
            return {**columns, "backup_id": origin.backup_id}
        case _:
            assert_never(origin)
