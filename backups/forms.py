"""Whether the form of a database is still that of a moment: what there is besides the rows of its tables.

pg_dump reads rows as they were at one moment. But it names tables in SQL, and the name of a schema leads to
another schema as soon as the two are exchanged, which no lock on a table hinders. And it has the server write
definitions: as they are when it asks. Of a function that was dropped meanwhile there is none, and pg_dump
writes a statement without it, which pg_restore refuses.
"""

import asyncpg

from backups.snapshots import Database
from databases.errors import DatabaseFaultError
from databases.statements import fetch_rows

# Each object that a session can rename, replace or drop although the tables are locked, as their row types,
# indexes, columns and most constraints are with them. `xmin` tells another version of a row. Left out are
# temporary objects, and catalogues that maintenance writes to. Loads disable triggers and enable them again,
# and a sequence that begins anew is the same one: of these, no version counts.
_FORM = """
WITH own AS (
    SELECT oid, xmin FROM pg_namespace
    WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
), relations AS (
    SELECT pg_class.oid, relname, relnamespace, relkind FROM pg_class JOIN own ON own.oid = relnamespace
), types AS (
    SELECT pg_type.oid, pg_type.xmin FROM pg_type JOIN own ON own.oid = typnamespace
    WHERE typcategory <> 'A' AND typrelid NOT IN (SELECT oid FROM relations WHERE relkind IN ('r', 'p'))
)
SELECT format('schema %s %s', oid, xmin) AS object FROM own
UNION ALL
SELECT format('type %s %s', oid, xmin) FROM types
UNION ALL
SELECT format('label %s %s', pg_enum.oid, pg_enum.xmin) FROM pg_enum JOIN types ON types.oid = enumtypid
UNION ALL
SELECT format('function %s %s', pg_proc.oid, pg_proc.xmin) FROM pg_proc JOIN own ON own.oid = pronamespace
UNION ALL
SELECT format('operator %s %s', pg_operator.oid, pg_operator.xmin)
FROM pg_operator JOIN own ON own.oid = oprnamespace
UNION ALL
SELECT format('collation %s %s', pg_collation.oid, pg_collation.xmin)
FROM pg_collation JOIN own ON own.oid = collnamespace
UNION ALL
SELECT format('statistics %s %s', pg_statistic_ext.oid, pg_statistic_ext.xmin)
FROM pg_statistic_ext JOIN own ON own.oid = stxnamespace
UNION ALL
SELECT format('constraint %s %s', pg_constraint.oid, pg_constraint.xmin)
FROM pg_constraint JOIN own ON own.oid = connamespace
WHERE contypid <> 0 OR NOT convalidated
UNION ALL
SELECT format('rule %s %s', pg_rewrite.oid, pg_rewrite.xmin)
FROM pg_rewrite JOIN relations ON relations.oid = ev_class
UNION ALL
SELECT format('column %s %s %s', attrelid, attnum, pg_attribute.xmin)
FROM pg_attribute JOIN relations ON relations.oid = attrelid
WHERE relkind IN ('v', 'm', 'c')
UNION ALL
SELECT format('trigger %s', pg_trigger.oid)
FROM pg_trigger JOIN relations ON relations.oid = tgrelid
WHERE NOT tgisinternal
UNION ALL
SELECT format('sequence %s %s %s', oid, relnamespace, hashtextextended(relname, 0))
FROM relations
WHERE relkind = 'S'
"""


async def read_form(session: asyncpg.Connection) -> frozenset[str]:
    """Each object that has a form as the session sees it, in whatever words.

    Raises:
        DatabaseFaultError: the server is away, …
    """
    return frozenset(row["object"] for row in await fetch_rows(session, _FORM))


async def require_same_form(database: Database, form: frozenset[str]) -> None:
    """Check that all that had this form at a moment has it still, once everything of that moment was read.

    What is made meanwhile does not matter: it is in no dump of that moment.

    Raises:
        DatabaseFaultError: an object was renamed, replaced or dropped; another attempt may meet none that is.
            Or the server is away, …
    """
    async with database.server.connected(database.name) as session:
        if not form <= await read_form(session):
            raise DatabaseFaultError(
                f"While '{database.name}' was read, another session has renamed, replaced or dropped a"
                " schema, a function, a type, a view, a sequence or the like. What was read may not fit"
                " together, and is not used. Retry when such changes are done.",
                retryable=True,
            )
