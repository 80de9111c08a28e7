"""Which database a load of a template may replace, and what else a load needs."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import asyncpg

from ods.databases.constants import INVALID_CONNECTION_LIMIT
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.spares import SpareMark
from ods.databases.statements import fetch_row, fetch_rows
from ods.databases.template_marks import TemplateMark

_FIRST_OWN_OID = 16384
"""Databases with lower ones were made by initdb (PostgreSQL's FirstNormalObjectId)."""

_ROW = """
SELECT oid::int8, oid || ' ' || db.xmin AS state, datallowconn, datistemplate, datconnlimit = $2 AS invalid,
       pg_has_role(datdba, 'USAGE') AS is_ours, shobj_description(db.oid, 'pg_database') AS comment,
       datname = current_database() AS is_maintenance,
       (SELECT count(*) FROM pg_stat_activity AS activity
        WHERE activity.datid = db.oid AND usesysid IS NOT NULL) AS sessions
FROM pg_database AS db WHERE datname = $1
"""
_UNAVAILABLE = """
SELECT name, EXISTS (SELECT FROM pg_available_extensions AS found WHERE found.name = wanted.name) AS is_there
FROM unnest($1::text[]) AS wanted (name)
WHERE NOT EXISTS (
    SELECT FROM pg_available_extension_versions AS version
    WHERE version.name = wanted.name
      AND (NOT superuser OR trusted OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
)
ORDER BY name
"""


@dataclass(frozen=True)
class LoadTarget:
    """What shall be loaded.

    Attributes:
        installation: the installation that loads it.
        template: the template's name.
        database: the name of its database.
        needed: names of databases that no load touches, such as the registry and other templates.
    """

    installation: str
    template: str
    database: str
    needed: frozenset[str]


@dataclass(frozen=True)
class Replaced:
    """The database that a load replaces.

    Attributes:
        oid: its oid.
        state: another one if the row of `pg_database` was changed, as by opening and closing the database.
        comment: its comment.
        generation: that of the template in it; 0 if no load of ours has published it.
    """

    oid: int
    state: str
    comment: str | None
    generation: int


async def require_loadable(
    session: asyncpg.Connection, target: LoadTarget, extensions: Collection[str]
) -> None:
    """Refuse a load that cannot succeed, before anything is done.

    Raises:
        DatabaseFaultError: the database of the template's name may not be replaced, or extensions that the
            file needs are missing.
    """
    await replaceable(session, target)
    missing = await fetch_rows(session, _UNAVAILABLE, list(extensions))
    if absent := [row["name"] for row in missing if not row["is_there"]]:
        raise DatabaseFaultError(
            f"The file needs extensions that the server does not have: {', '.join(absent)}. Install them on"
            " it (PostgreSQL's own are in the package postgresql-contrib), then load the file again."
        )
    if refused := [row["name"] for row in missing]:
        raise DatabaseFaultError(
            f"The file needs extensions that only a superuser may create: {', '.join(refused)}. Load it with"
            " the login of a superuser in ODS_MASTER_DSN, or make a file without them."
        )


async def replaceable(session: asyncpg.Connection, target: LoadTarget) -> Replaced | None:
    """The database that the load replaces; None if there is none.

    Raises:
        DatabaseFaultError: it may be something else than a template of this installation, or is in use.
    """
    row = await fetch_row(session, _ROW, target.database, INVALID_CONNECTION_LIMIT)
    if target.database in target.needed:
        raise DatabaseFaultError(f"The database '{target.database}' is needed for something else.")
    if row is None:
        return None
    if (reason := next(_obstacles(row, target.installation), None)) is not None:
        raise DatabaseFaultError(f"The database '{target.database}' {reason} Nothing was done.")
    mark = TemplateMark.read(row["comment"])
    return Replaced(row["oid"], row["state"], row["comment"], mark.generation if mark else 0)


def _obstacles(row: asyncpg.Record, installation: str) -> Iterator[str]:
    """Why a database may not be replaced by a load, each as the end of a sentence."""
    mark = TemplateMark.read(row["comment"])
    if row["is_maintenance"] or row["oid"] < _FIRST_OWN_OID:
        yield "is one that PostgreSQL or this service needs itself."
    if Owner.read(row["comment"]) or SpareMark.read(row["comment"]):
        yield "belongs to an instance, or is a spare: its comment says so."
    if mark is not None and mark.installation != installation:
        yield (
            f"was loaded by the installation {mark.installation}. If it is not in use there, remove its"
            " comment (COMMENT ON DATABASE … IS NULL)."
        )
    if row["invalid"]:
        yield "is left of an interrupted DROP. Drop it, then load the template again."
    if row["datallowconn"] and not row["datistemplate"]:
        yield (
            "is open, and not marked as a template. If it is one: ALTER DATABASE … IS_TEMPLATE true"
            " ALLOW_CONNECTIONS false."
        )
    if not row["is_ours"]:
        yield "belongs to another role than that of ODS_MASTER_DSN. Make that role its owner."
    if row["sessions"]:
        yield "has sessions on it. Close them."
