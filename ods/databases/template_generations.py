"""Which generation of its template a new database is a copy of.

`CREATE DATABASE` looks the template's name up itself: it copies the database that has the name once it holds
a lock on it. A load that gives the name to another database has that lock for itself meanwhile. Both get
their transaction ids while they hold it, so the ids say which of the two came first.
"""

from dataclasses import dataclass

import asyncpg

from ods.databases.statements import fetch_row
from ods.databases.template_marks import TemplateMark, TemplateState

_TEMPLATE = """
SELECT oid::int8, shobj_description(oid, 'pg_database') AS comment,
       (SELECT age(copy.xmin) < age(template.xmin) FROM pg_database AS copy WHERE datname = $2) AS is_newer
FROM pg_database AS template WHERE datname = $1
"""


@dataclass(frozen=True)
class Generation:
    """The database that has a template's name, and the generation that its comment says; None if none."""

    oid: int
    number: int | None


async def generation_of(session: asyncpg.Connection, template: str) -> Generation | None:
    """What has the template's name now; None if no database has it.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    row = await fetch_row(session, _TEMPLATE, template, None)
    return None if row is None else _generation(row)


async def generation_copied(
    session: asyncpg.Connection, template: str, copy: str, before: Generation | None
) -> int | None:
    """Which generation a database is a copy of that was just created; None if that is not known.

    Args:
        session: a session on the maintenance database.
        template: the name of the template's database.
        copy: the name of the new database, which no statement has changed since it was created.
        before: what had the template's name before it was created.

    Raises:
        DatabaseFaultError: the server is away, …
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
    mark = TemplateMark.read(row["comment"])
    is_known = mark is not None and mark.state is TemplateState.PUBLISHED
    return Generation(row["oid"], mark.generation if mark and is_known else None)
