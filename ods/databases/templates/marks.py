"""Comments, private names, contents and generations of template databases.

A template is loaded into a database with a private name. When it is published, that database takes the
template's name, and the one that had it gets a private name. The comment says which of these states a
database is in, and what a published one holds.

`CREATE DATABASE` copies the database that has the template's name once it holds a lock on it. A load that
gives the name to another database holds that lock alone. Both get their transaction ids while they hold the
lock, so the ids say which came first.
"""

import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import asyncpg

from ods.databases.constants import TEMPLATE_PREFIX, UNREADABLE, private_prefix
from ods.databases.statements import fetch_row, fetch_rows, fetch_value

_NAME = re.compile(rf"{TEMPLATE_PREFIX}[0-9a-f]{{16}}_[0-9a-f]{{32}}")

HIGHEST_GENERATION = 2**31 - 1
"""That a registry can store."""
_TEMPLATE = """
SELECT oid::int8, shobj_description(oid, 'pg_database') AS comment,
       (SELECT age(copy.xmin) < age(template.xmin) FROM pg_database AS copy WHERE datname = $2) AS is_newer
FROM pg_database AS template WHERE datname = $1
"""
EXPECTED_TABLES = (
    *("edfi.descriptor", "edfi.educationorganization", "edfi.localeducationagency", "edfi.school"),
    *("edfi.student", "edfi.staff"),
)
"""Tables that every version of the ODS/API reads; without one of them a database is no ODS."""

_COUNT_TABLES = """
SELECT count(*) FROM pg_tables
WHERE schemaname <> 'information_schema' AND NOT starts_with(schemaname, 'pg_')
"""
_MISSING = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL ORDER BY name"
_MAY_READ_JOURNAL = """
SELECT has_table_privilege(to_regclass('public."DeployJournal"'), 'SELECT')
"""
_JOURNAL = 'SELECT scriptname FROM public."DeployJournal" WHERE scriptname ~ $1'
_VERSION = r"(\d{1,9}(?:\.\d{1,9})+)\."
_OF_STANDARD = re.compile(rf"\bStandard\.{_VERSION}Artifacts\.PgSql\.Structure\.")
"""As in `EdFi.Ods.Standard.Standard.5.2.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql`."""
_OF_EXTENSION = re.compile(rf"\bExtensions\.(\w+)\.{_VERSION}")
"""As in `Extensions.TPDM.1.1.0.Standard.5.2.0.Artifacts.PgSql.Structure.Ods.0010-Schemas.sql`."""


class TemplateState(StrEnum):
    """What a database is to a template."""

    LOADING = "loading"
    PUBLISHED = "published"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Contents:
    """What an ODS database says of itself.

    Attributes:
        tables: how many there are.
        data_standard: the version of the Data Standard; None if its deployment journal does not say.
        extensions: the versions of the Ed-Fi extensions, by name.
    """

    tables: int
    data_standard: str | None
    extensions: Mapping[str, str]


@dataclass(frozen=True)
class TemplateMark:
    """What the comment on a template database says.

    Attributes:
        installation: the installation that has loaded or replaced it.
        generation: counts what was published under the template's name.
        loaded_at: None until it is published, as `contents`.
    """

    installation: str
    template: str
    state: TemplateState
    generation: int = field(default=0, kw_only=True)
    loaded_at: datetime | None = field(default=None, kw_only=True)
    contents: Contents | None = field(default=None, kw_only=True)

    @property
    def comment(self) -> str:
        """The comment that is written."""
        return json.dumps(
            {
                "installation": self.installation,
                "template": self.template,
                "state": self.state,
                "generation": self.generation,
                "loadedAt": self.loaded_at and self.loaded_at.isoformat(timespec="seconds"),
                "contents": self.contents and vars(self.contents),
            }
        )

    @classmethod
    def read(cls, comment: str | None) -> Self | None:
        """What `comment` says; None if it is not the comment of a template."""
        with suppress(*UNREADABLE):
            fields = json.loads(comment or "")
            if (generation := generation_in(fields["generation"])) is not None:
                return cls(
                    str(fields["installation"]),
                    str(fields["template"]),
                    TemplateState(fields["state"]),
                    generation=generation,
                    loaded_at=fields["loadedAt"] and datetime.fromisoformat(fields["loadedAt"]),
                    contents=fields["contents"] and _contents(fields["contents"]),
                )
        return None

    @classmethod
    def of_template(cls, comment: str | None) -> Self | None:
        """The same of a database that has its template's name; None of any other."""
        mark = cls.read(comment)
        return mark if mark and mark.state is TemplateState.PUBLISHED else None


def generation_in(value: object) -> int | None:
    """The generation in a comment; None if no registry could store it."""
    return value if type(value) is int and 0 <= value <= HIGHEST_GENERATION else None


def new_private_name(installation: str) -> str:
    """A private name for one more template database."""
    return f"{private_prefix(TEMPLATE_PREFIX, installation)}{uuid.uuid4().hex}"


def is_private(database: str) -> bool:
    """Whether the name is a private one of a template, of any installation."""
    return _NAME.fullmatch(database) is not None


def _contents(fields: Mapping[str, Any]) -> Contents:
    standard = fields["data_standard"]
    return Contents(
        tables=int(fields["tables"]),
        data_standard=None if standard is None else str(standard),
        extensions={str(name): str(version) for name, version in fields["extensions"].items()},
    )


@dataclass(frozen=True)
class Generation:
    """The database that has a template's name, and the generation that its comment says; None if none."""

    oid: int
    number: int | None


async def generation_of(session: asyncpg.Connection, template: str) -> Generation | None:
    """What has the template's name now; None if no database has it."""
    row = await fetch_row(session, _TEMPLATE, template, None)
    return None if row is None else _generation(row)


async def generation_copied(
    session: asyncpg.Connection, template: str, copy: str, before: Generation | None
) -> int | None:
    """Which generation a new `copy`, which was not changed since, is of; None if that is not known.

    `before` is what had the template's name before it was created.
    """
    row = await fetch_row(session, _TEMPLATE, template, copy)
    if row is None or before is None:
        return None
    now = _generation(row)
    if now.oid == before.oid or row["is_newer"]:
        return now.number
    # It was created before the present template was published, thus of the one that was replaced then.
    return before.number if now.number == (before.number or 0) + 1 else None


def _generation(row: asyncpg.Record) -> Generation:
    mark = TemplateMark.of_template(row["comment"])
    return Generation(row["oid"], mark.generation if mark else None)


async def read_contents(session: asyncpg.Connection) -> Contents:
    """What the session's database holds."""
    tables = await fetch_value(session, _COUNT_TABLES)
    scripts = []
    if await fetch_value(session, _MAY_READ_JOURNAL):
        rows = await fetch_rows(session, _JOURNAL, r"Artifacts\.PgSql\.Structure\.")
        scripts = [row["scriptname"] for row in rows]
    return contents_of(tables, scripts)


async def missing_tables(session: asyncpg.Connection) -> Collection[str]:
    """Which of the tables that the ODS/API expects the session's database lacks."""
    return [row["name"] for row in await fetch_rows(session, _MISSING, EXPECTED_TABLES)]


def contents_of(tables: int, scripts: Iterable[str]) -> Contents:
    """The newest version of each product by the names of the scripts that were run on a database."""
    standards, extensions = [], []
    for script in scripts:
        if extension := _OF_EXTENSION.search(script):
            extensions.append((extension[1], extension[2]))
        elif standard := _OF_STANDARD.search(script):
            standards.append(standard[1])
    return Contents(
        tables,
        max(standards, key=_parts, default=None),
        dict(sorted(extensions, key=lambda one: _parts(one[1]))),
    )


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
