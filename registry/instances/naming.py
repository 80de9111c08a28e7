"""The names of instances and of their databases.

A database is named as the Admin API names it: `EdFi_Ods_<name>_<template>`, with underscores for blanks.
"""

import re

from registry.instances.status import Template

DATABASE_PREFIX = "EdFi_Ods"
MAX_NAME_LENGTH = 46

_CHARACTER = "[A-Za-z0-9 _]"
_VISIBLE = _CHARACTER.replace(" ", "")
_ALLOWED = re.compile(f"{_CHARACTER}*")

NAME_PATTERN = f"^{_CHARACTER}*{_VISIBLE}{_CHARACTER}*$"
"""For ECMAScript. A name matches if `name_errors` finds nothing wrong with it but its length."""

_LEADING_PREFIXES = re.compile(rf"\A(?:{DATABASE_PREFIX}(?:_+|\Z))+", re.IGNORECASE)


def name_errors(name: str) -> list[str]:
    """Everything that is wrong with `name` as the name of an instance, in messages for the client."""
    errors = []
    if not name.strip():
        errors.append("'Name' must not be empty.")
    if len(name) > MAX_NAME_LENGTH:
        errors.append(
            f"'Name' must be {MAX_NAME_LENGTH} characters or fewer. You entered {len(name)} characters."
        )
    if not _ALLOWED.fullmatch(name):
        errors.append("'Name' must contain only letters, numbers, spaces and underscores.")
    return errors


def database_name(name: str, template: Template) -> str:
    """The name of the database of an instance called `name`, a name without `name_errors`."""
    stem = _LEADING_PREFIXES.sub("", name.replace(" ", "_").strip("_"))
    return "_".join(part for part in (DATABASE_PREFIX, stem, template) if part)


def instance_named(database: str) -> tuple[str, Template] | None:
    """The name and template of an instance whose database has this name; None if no instance can have it."""
    for template in Template:
        name = database.removeprefix(f"{DATABASE_PREFIX}_").removesuffix(f"_{template}")
        if not name_errors(name) and database_name(name, template) == database:
            return name, template
    return None
