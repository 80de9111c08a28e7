"""Where the database of an instance comes from: its template, another instance, or a backup."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeAlias


class CopyMode(StrEnum):
    """How an instance is copied."""

    ONLINE = "online"  # by dump and restore, while the source is used
    CLOSED = "closed"  # its files, while it cannot be used


@dataclass(frozen=True)
class TemplateOrigin:
    """The database is a clone of the instance's template."""


@dataclass(frozen=True)
class CopyOrigin:
    """The database is a copy of that of the instance `instance_id`, the source."""

    instance_id: int
    mode: CopyMode = CopyMode.ONLINE
    mark: str | None = None  # that of the source; None as long as the request has not looked it up


@dataclass(frozen=True)
class BackupOrigin:
    """The database is restored from a backup."""

    backup_id: str


@dataclass(frozen=True)
class EarlierDatabase:
    """No database is made: the instance gets one again that it had before a reset."""

    database_id: str


Origin: TypeAlias = TemplateOrigin | CopyOrigin | BackupOrigin

FROM_TEMPLATE = TemplateOrigin()


def read_exactly(written: object, kinds: tuple[Any, ...]) -> object:
    """An object of the one of these dataclasses whose fields are just those that are written."""
    if isinstance(written, Mapping):
        for kind in kinds:
            if written.keys() == {field.name for field in fields(kind)}:
                return kind(**written)
    raise ValueError("Another release has written other fields.")


def read_any_origin(written: object) -> Origin | EarlierDatabase:
    """What a reset makes a database of, as rows and payloads hold it."""
    match read_exactly(written, (TemplateOrigin, CopyOrigin, BackupOrigin, EarlierDatabase)):
        case CopyOrigin(instance_id=int(), mode=str() as mode, mark=str() | None) as copy:
            return CopyOrigin(copy.instance_id, CopyMode(mode), copy.mark)
        case BackupOrigin(backup_id=str()) as backup:
            return backup
        case EarlierDatabase(database_id=str()) as earlier:
            return earlier
        case TemplateOrigin() as template:
            return template
        case _:
            raise ValueError("An origin has values of another type.")


def read_origin(written: object) -> Origin:
    """Where the contents of a database come from, as rows and payloads hold it."""
    origin = read_any_origin(written)
    if isinstance(origin, EarlierDatabase):
        raise ValueError("Contents do not come from an earlier database.")  # noqa: TRY004 - of another release
    return origin
