"""How an instance's database is named.

The rule is the Admin API's: `EdFi_Ods_<name>_<template>`, with blanks turned into underscores.
"""

import re

from registry.instances.status import Template

DATABASE_PREFIX = "EdFi_Ods"
MAX_NAME_LENGTH = 46

_ALLOWED = re.compile(r"[A-Za-z0-9 _]*")
_LEADING_PREFIXES = re.compile(rf"\A(?:{DATABASE_PREFIX}(?:_+|\Z))+", re.IGNORECASE)


def name_errors(name: str) -> list[str]:
    """Everything that is wrong with `name` as the name of an instance, in words for its author."""
    faults = []
    if not name.strip():
        faults.append("'Name' must not be empty.")
    if len(name) > MAX_NAME_LENGTH:
        faults.append(
            f"'Name' must be {MAX_NAME_LENGTH} characters or fewer. You entered {len(name)} characters."
        )
    if not _ALLOWED.fullmatch(name):
        faults.append("'Name' must contain only letters, numbers, spaces and underscores.")
    return faults


def database_name(name: str, template: Template) -> str:
    """Name of the database of the instance `name`, which `name_errors` found nothing wrong with."""
    stem = _LEADING_PREFIXES.sub("", name.replace(" ", "_").strip("_"))
    return "_".join(part for part in (DATABASE_PREFIX, stem, template) if part)


def instance_named(database: str) -> tuple[str, Template] | None:
    """A name and template whose instance has a database of this name; None if there are none."""
    for template in Template:
        name = database.removeprefix(f"{DATABASE_PREFIX}_").removesuffix(f"_{template}")
        if not name_errors(name) and database_name(name, template) == database:
            return name, template
    return None
