"""Removing databases that loads of templates have left: of loads that died, and templates that were replaced.

A database is removed only if its name is a private one of the installation, no session that loads a template
holds the lock of that name, and it says itself that it may go: its comment names the installation, or it has
none, is closed and empty, as a load makes it before anything else. A template that a load has replaced, and
that no load had made, stays: who has made it by hand may need it still.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import assert_never

import asyncpg

from ods.databases import spares
from ods.databases.constants import INVALID_CONNECTION_LIMIT, SPARE_PREFIX
from ods.databases.dropping import drop_database
from ods.databases.errors import DatabaseFaultError
from ods.databases.spares import SpareMark
from ods.databases.statements import execute, fetch_rows
from ods.databases.template_marks import TemplateMark, TemplateState, is_private, private_prefix

_ROWS = """
SELECT datname, oid::int8, datallowconn, datistemplate, datconnlimit = $2 AS invalid,
       pg_has_role(datdba, 'USAGE') AS is_ours, comment,
       CASE WHEN comment IS NULL AND pg_has_role(datdba, 'USAGE')
            THEN pg_database_size(oid) <= pg_database_size('template0') + $3 END AS is_empty
FROM pg_database, shobj_description(oid, 'pg_database') AS comment WHERE starts_with(datname, $1)
"""
_ALLOWANCE_BYTES = 1024 * 1024
"""By how much two empty databases may differ in size."""


@dataclass(frozen=True)
class TemplateLeftover:
    """A database that a load of a template has left.

    Attributes:
        template: the name of the template; None if the database does not tell.
        state: `loading` (a load runs, or has died) or `replaced` (by a newer one); None as well.
        generation: counts what was published under the template's name; None as well.
    """

    database: str
    template: str | None = None
    state: TemplateState | None = None
    generation: int | None = None


async def list_leftovers(
    session: asyncpg.Connection, installation: str, needed: Collection[str]
) -> list[TemplateLeftover]:
    """What loads of this installation have left, and those that run now; by name."""
    rows = await _private_databases(session, installation)
    marks = {
        row["datname"]: TemplateMark.read(row["comment"]) for row in rows if row["datname"] not in needed
    }
    return [
        TemplateLeftover(name, mark.template, mark.state, mark.generation) if mark else TemplateLeftover(name)
        for name, mark in sorted(marks.items())
    ]


async def remove_leftovers(
    session: asyncpg.Connection, installation: str, needed: Collection[str]
) -> list[str]:
    """Remove what loads of this installation have left; what cannot be removed now stays for the next time.

    Args:
        needed: names of databases that are never removed, such as those of the templates.

    Returns the names of the databases that were removed.
    """
    return [
        row["datname"]
        for row in await _private_databases(session, installation)
        if row["datname"] not in needed and await _removed(session, installation, row)
    ]


async def remove_private(
    session: asyncpg.Connection, database: str, *, template: bool, invalid: bool
) -> None:
    """Drop a database that a load has made or replaced; the caller holds the lock of its name."""
    if template:
        await execute(session, "ALTER DATABASE %I IS_TEMPLATE false", database)
    await drop_database(session, database, invalid=invalid)


async def _private_databases(session: asyncpg.Connection, installation: str) -> list[asyncpg.Record]:
    prefix = private_prefix(installation)
    rows = await fetch_rows(session, _ROWS, prefix, INVALID_CONNECTION_LIMIT, _ALLOWANCE_BYTES)
    return [row for row in rows if is_private(row["datname"])]


async def _removed(session: asyncpg.Connection, installation: str, row: asyncpg.Record) -> bool:
    async with spares.locked(session, row["datname"]) as acquired:
        # Before the lock was acquired, another session may have published or removed it.
        if not acquired or row not in await _private_databases(session, installation):
            return False
        if not await _may_go(session, installation, row):
            return False
        try:
            await remove_private(
                session, row["datname"], template=row["datistemplate"], invalid=row["invalid"]
            )
        except DatabaseFaultError:
            return False  # a create may copy it still, for which nothing here waits
        return True


async def _may_go(session: asyncpg.Connection, installation: str, row: asyncpg.Record) -> bool:
    if not row["is_ours"]:
        return False
    if row["comment"] is None:
        return bool(row["is_empty"]) and not row["datallowconn"]
    mark = TemplateMark.read(row["comment"])
    if mark is None or mark.installation != installation:
        return False
    match mark.state:
        case TemplateState.LOADING:
            return True
        case TemplateState.REPLACED:
            return mark.generation > 0 and row["oid"] not in await _copied(session)
        case TemplateState.PUBLISHED:  # another session has given it this name
            return False
        case _:
            assert_never(mark.state)


async def _copied(session: asyncpg.Connection) -> set[int]:
    """The oids of the databases that spares, of any installation, are copies of."""
    query = """
    SELECT shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE starts_with(datname, $1)
    """
    marks = [SpareMark.read(row["comment"]) for row in await fetch_rows(session, query, SPARE_PREFIX)]
    return {mark.fingerprint.oid for mark in marks if mark}
