"""The names of instances and of their databases.

A database is named as the Admin API names it: `EdFi_Ods_<name>_<template>`, with underscores for blanks.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from ods.model.operations import Template
from ods.settings.settings import MAX_DATABASE_NAME_BYTES

DATABASE_PREFIX = "EdFi_Ods"
MAX_NAME_LENGTH = 46
TRASH_PREFIX = "ods_trash_"
"""Begins the name of a database that is deleted or replaced, while it can come back; its id follows."""
RESET_PREFIX = "ods_reset_"
"""Begins the private name of a database until it takes the place of an instance's; its id follows."""
_RESET_NAME = re.compile(rf"{RESET_PREFIX}[0-9a-f]{{32}}")
_TRASH_NAME = re.compile(rf"{TRASH_PREFIX}[0-9a-f]{{32}}")

_CHARACTER = "[A-Za-z0-9 _]"
_VISIBLE = _CHARACTER.replace(" ", "")
_ALLOWED = re.compile(f"{_CHARACTER}*")

NAME_PATTERN = f"^{_CHARACTER}*{_VISIBLE}{_CHARACTER}*$"
"""For ECMAScript. A name matches if `name_errors` finds nothing wrong with it but its length."""

_LEADING_PREFIXES = re.compile(rf"\A(?:{DATABASE_PREFIX}(?:_+|\Z))+", re.IGNORECASE)


def max_name_length(template: str) -> int:
    """The most characters of an instance's name, which is a part of its database's, as the template is."""
    return min(MAX_NAME_LENGTH, MAX_DATABASE_NAME_BYTES - len(f"{DATABASE_PREFIX}__{template}"))


def name_errors(name: str, template: str = Template.MINIMAL) -> list[str]:
    """Everything that is wrong with `name` as the name of an instance, in messages for the client."""
    errors = []
    if not name.strip():
        errors.append("'Name' must not be empty.")
    if len(name) > (most := max_name_length(template)):
        errors.append(f"'Name' must be {most} characters or fewer. You entered {len(name)} characters.")
    if not _ALLOWED.fullmatch(name):
        errors.append("'Name' must contain only letters, numbers, spaces and underscores.")
    return errors


def database_name(name: str, template: str) -> str:
    """The name of the database of an instance called `name`, a name without `name_errors`."""
    stem = _LEADING_PREFIXES.sub("", name.replace(" ", "_").strip("_"))
    return "_".join(part for part in (DATABASE_PREFIX, stem, template) if part)


def trash_name(database_id: str) -> str:
    """The name in the trash of the database with this id (a UUID)."""
    return f"{TRASH_PREFIX}{UUID(database_id).hex}"


def is_trash_name(database: str) -> bool:
    """Whether a database of this name is in the trash, of whichever instance or installation."""
    return _TRASH_NAME.fullmatch(database) is not None


def reset_name(database_id: str) -> str:
    """The private name of the database with this id (a UUID) before it takes the place of another."""
    return f"{RESET_PREFIX}{UUID(database_id).hex}"


def is_reset_name(database: str) -> bool:
    """Whether a database of this name shall take the place of another, of whichever instance."""
    return _RESET_NAME.fullmatch(database) is not None


def snapshot_name(database: str, at: datetime) -> str:
    """The name of a snapshot requested at this time in UTC: `<database>_Snapshot_20261126T074500`.

    The database's name is shortened if PostgreSQL would cut the whole: then eight digits of its SHA-256 end
    it, so that no two databases have snapshots of one name.
    """
    suffix = f"_Snapshot_{at:%Y%m%dT%H%M%S}"
    room = MAX_DATABASE_NAME_BYTES - len(suffix)
    if len(database.encode()) > room:
        digits = sha256(database.encode()).hexdigest()[:8]
        kept = database.encode()[: room - len(digits) - 1].decode(errors="ignore")
        database = f"{kept}_{digits}"
    return f"{database}{suffix}"


def instance_named(database: str, templates: Collection[str]) -> tuple[str, str] | None:
    """The name and template of the instance whose database would have this name; None if there are none."""
    for template in templates:
        name = database.removeprefix(f"{DATABASE_PREFIX}_").removesuffix(f"_{template}")
        if not name_errors(name, template) and database_name(name, template) == database:
            return name, template
    return None


@dataclass(frozen=True)
class DistinctPart:
    """A part of a new instance that only one instance can have."""

    key: tuple[str, ...]  # equal for two instances that cannot both have it
    member: str  # the property of a request that has it, in PascalCase
    words: str  # how a message names it


def doubled_parts(
    instances: Mapping[int, tuple[str, str | None, Mapping[str, str]]],
) -> Iterator[tuple[int, int, DistinctPart]]:
    """The parts that an earlier one of `instances` has as well: the later one, the earlier one, the part.

    `instances` has name, template and contexts of each, by their numbers, in order. Without the template, the
    name of the database is not known, and not compared.
    """
    first: dict[tuple[str, ...], int] = {}
    for number, (name, template, contexts) in instances.items():
        is_doubled = ("name", name) in first
        for part in _parts(name, template, contexts):
            earlier = first.setdefault(part.key, number)
            # Two with one name have one name for their databases as well, which is not reported again.
            if earlier != number and not (is_doubled and part.key[0] == "database"):
                yield number, earlier, part


def _parts(name: str, template: str | None, contexts: Mapping[str, str]) -> Iterator[DistinctPart]:
    yield DistinctPart(("name", name), "Name", f"The name '{name}'")
    if template is not None:
        database = database_name(name, template)
        yield DistinctPart(("database", database), "Name", f"The name of the database, '{database}',")
    if contexts:
        pairs = sorted(f"{key}={value}".casefold() for key, value in contexts.items())
        words = ", ".join(f"'{key}' = '{value}'" for key, value in contexts.items())
        yield DistinctPart(("contexts", *pairs), "Contexts", f"The set of contexts {words}")
