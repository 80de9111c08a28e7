"""What an ODS database tells of itself: its tables, and the versions that its deployment journal names."""

import re
from collections.abc import Collection, Iterable

import asyncpg

from ods.databases.statements import fetch_rows, fetch_value
from ods.databases.template_marks import Contents

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


async def read_contents(session: asyncpg.Connection) -> Contents:
    """What the database of this session holds.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    tables = await fetch_value(session, _COUNT_TABLES)
    scripts = []
    if await fetch_value(session, _MAY_READ_JOURNAL):
        rows = await fetch_rows(session, _JOURNAL, r"Artifacts\.PgSql\.Structure\.")
        scripts = [row["scriptname"] for row in rows]
    return contents_of(tables, scripts)


async def missing_tables(session: asyncpg.Connection) -> Collection[str]:
    """Which of the tables that the ODS/API expects the database of this session lacks.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return [row["name"] for row in await fetch_rows(session, _MISSING, EXPECTED_TABLES)]


def contents_of(tables: int, scripts: Iterable[str]) -> Contents:
    """What the names of the scripts that were run on a database tell, of each product its newest version."""
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
