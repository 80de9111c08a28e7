"""Whether the form of a database is still that of a moment: what there is besides the rows of its tables.

pg_dump reads rows as they were at one moment. But it names tables in SQL, and the name of a schema leads to
another schema as soon as the two are exchanged, which no lock on a table hinders. And it has the server write
definitions: as they are when it asks. Of a function that was dropped meanwhile there is none, and pg_dump
writes a statement without it, which pg_restore refuses.
"""

from collections.abc import Mapping
from typing import NamedTuple

import asyncpg

from ods.backups.snapshots import Database
from ods.databases.errors import DatabaseFaultError
from ods.databases.statements import fetch_rows

_OF_OWN_SCHEMA = "IN (SELECT oid FROM own)"
# Each object that a session can rename, replace or drop although the tables are locked, as their row types,
# columns and most constraints are with them: the catalogue, which of its rows, and the columns that do not
# count. These are the owners and privileges, which no dump has; what maintenance writes; and whether triggers
# are enabled, since loads disable them and enable them again. A sequence that begins anew is the same one.
_OBJECTS = (
    ("pg_type", "oid IN (SELECT oid FROM types)", "typowner, typacl"),
    ("pg_proc", "oid IN (SELECT oid FROM functions)", "proowner, proacl"),
    ("pg_aggregate", "aggfnoid IN (SELECT oid FROM functions)", ""),
    ("pg_operator", f"oprnamespace {_OF_OWN_SCHEMA}", "oprowner"),
    ("pg_collation", f"collnamespace {_OF_OWN_SCHEMA}", "collowner, collversion"),
    ("pg_ts_config", f"cfgnamespace {_OF_OWN_SCHEMA}", "cfgowner"),
    ("pg_ts_dict", f"dictnamespace {_OF_OWN_SCHEMA}", "dictowner"),
    ("pg_statistic_ext", f"stxnamespace {_OF_OWN_SCHEMA}", "stxowner"),
    ("pg_constraint", f"connamespace {_OF_OWN_SCHEMA} AND (contypid <> 0 OR NOT convalidated)", ""),
    ("pg_rewrite", "ev_class IN (SELECT oid FROM relations)", ""),
    (
        "pg_attribute",
        "attrelid IN (SELECT oid FROM relations WHERE relkind IN ('v', 'm', 'c'))",
        "attacl",
    ),
    ("pg_trigger", "tgrelid IN (SELECT oid FROM relations) AND NOT tgisinternal", "tgenabled"),
    ("relations", "relkind IN ('i', 'I', 'S')", ""),  # indexes and sequences: their names
)
# What rows are read by, or written as: here it counts also whether the row of the catalogue was written anew,
# as `xmin` tells. Temporary objects are left out.
_NAMES = """
WITH own AS (
    SELECT oid, nspname, xmin::text AS version, concat(nspowner, nspacl) AS rights FROM pg_namespace
    WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
), relations AS (
    SELECT pg_class.oid, relname, relnamespace, relkind FROM pg_class JOIN own ON own.oid = relnamespace
), functions AS (
    SELECT pg_proc.oid FROM pg_proc JOIN own ON own.oid = pronamespace
), types AS (
    SELECT pg_type.oid FROM pg_type JOIN own ON own.oid = typnamespace
    WHERE typcategory <> 'A' AND typrelid NOT IN (SELECT oid FROM relations WHERE relkind IN ('r', 'p'))
)
SELECT format('schema %s %s', oid, nspname) AS object, version, rights FROM own
UNION ALL
SELECT format('label %s %s', oid, enumlabel), xmin::text, NULL FROM pg_enum
WHERE enumtypid IN (SELECT oid FROM types)
"""
_HASHES = (
    f"""
UNION ALL
SELECT format(
    '{catalogue} %s', hashtextextended((to_jsonb({catalogue}) - '{{{left_out}}}'::text[])::text, 0)
), NULL, NULL
FROM {catalogue} WHERE {which}
"""  # noqa: S608 - constants
    for catalogue, which, left_out in _OBJECTS
)
_FORM = "".join((_NAMES, *_HASHES))


class _Written(NamedTuple):
    """When the row of a schema or label was written; of other objects, this is not compared.

    Attributes:
        version: the transaction that did.
        rights: the owner and privileges of a schema.
    """

    version: str | None
    rights: str | None


Form = Mapping[str, _Written]
"""Each object that has a form, in whatever words."""


async def read_form(session: asyncpg.Connection) -> Form:
    """The form as the session sees it."""
    rows = await fetch_rows(session, _FORM)
    return {row["object"]: _Written(row["version"], row["rights"]) for row in rows}


async def require_same_form(database: Database, form: Form) -> None:
    """Check that all that had this form at a moment has it still, once everything of that moment was read.

    What is made meanwhile does not matter: it is in no dump of that moment.

    Raises:
        DatabaseFaultError: an object was renamed, replaced or dropped; another attempt may meet none that is.
            Or the server is away, …
    """
    async with database.server.connected(database.name) as session:
        now = await read_form(session)
    if not all(name in now and _is_same(written, now[name]) for name, written in form.items()):
        raise DatabaseFaultError(
            f"While '{database.name}' was read, another session has renamed, replaced or dropped a"
            " schema, a function, a type, a view, an index, a sequence or the like. What was read may not fit"
            " together, and is not used. A GRANT on a schema that changes nothing cannot be told from"
            " that. Retry when such statements are done.",
            retryable=True,
        )


def _is_same(then: _Written, now: _Written) -> bool:
    """Whether a schema or label that has a name has had it all the time.

    If it was exchanged for another one and back, rows of the other may have been read, or this one's written
    with the wrong label. Its row is another version then; of a schema, new rights explain that as well.
    """
    return then.version == now.version or then.rights != now.rights
