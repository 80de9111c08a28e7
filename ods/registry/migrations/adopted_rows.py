"""Rows that an Admin API has written become instances with a job: what they lack is added."""

from sqlalchemy import Connection, text

from ods.model.operations import NOT_LIVE
from ods.registry.instances.admin_api import ADOPT
from ods.registry.instances.naming import database_name
from ods.registry.migrations import numbers
from ods.registry.migrations.conflicts import require_none
from ods.settings.settings import MAX_DATABASE_NAME_BYTES

_NOT_LIVE = ", ".join(f"'{operation}'" for operation in NOT_LIVE)
_RESERVE_IDS = """
UPDATE {table} AS instance SET odsinstanceid = :highest + lacking.number
FROM (SELECT id, row_number() OVER (ORDER BY id) AS number
      FROM {table} WHERE odsinstanceid IS NULL AND state <> 'Deleted') AS lacking
WHERE instance.id = lacking.id
"""


def adopt_rows(connection: Connection, table: str) -> None:
    """Give rows without a job what an instance has: names, an OdsInstanceId, an operation and a job.

    Args:
        connection: the transaction of the migrations.
        table: the table with the rows; the `jobnumber` of those to adopt is 0.

    Raises:
        ConflictingRowsError: rows break a rule of instances; nothing was changed.
    """
    require_none(
        connection,
        f"Unknown templates in {table}",
        f"SELECT format('id %s: %s', id, databasetemplate) FROM {table}"  # noqa: S608 - constants
        f" WHERE jobnumber = 0 AND databasetemplate NOT IN ('Minimal', 'Sample') AND state <> 'Deleted'",
    )
    _name_databases(connection, table)
    require_none(
        connection,
        f"Database names in {table} exceed {MAX_DATABASE_NAME_BYTES} bytes",
        f"SELECT format('id %s: %s', id, databasename) FROM {table}"  # noqa: S608 - constants
        f" WHERE octet_length(databasename) > {MAX_DATABASE_NAME_BYTES} AND state <> 'Deleted'",
    )
    require_unique(connection, table, "state")
    _reserve_ids(connection, table)
    connection.execute(text(ADOPT.format(table=table, chosen="true")))


def require_unique(connection: Connection, table: str, status: str) -> None:
    """Stop the migration if live rows of `table` share what only one instance can have.

    What is being purged is not live. A table of an Admin API alone has no operations.

    Args:
        connection: the transaction of the migrations.
        table: the table with the rows.
        status: its column with the status, or the expression that translates it to the words of this service.

    Raises:
        ConflictingRowsError: there are such rows; the message names them.
    """
    for column in ("name", "databasename", "odsinstanceid"):
        require_none(
            connection,
            f"Live rows of {table} share a {column}",
            f"SELECT format('ids %s: %s', string_agg(id::text, ', ' ORDER BY id), {column})"  # noqa: S608 - constants
            f" FROM {table} AS instance WHERE {status} <> 'Deleted' AND {column} IS NOT NULL"
            f" AND coalesce(to_jsonb(instance) ->> 'operation', '') NOT IN ({_NOT_LIVE})"
            f" GROUP BY {column} HAVING count(*) > 1",
        )


def _name_databases(connection: Connection, table: str) -> None:
    """Give live rows the database name that a create would have given them later."""
    unnamed = connection.execute(
        text(
            f"SELECT id, name, databasetemplate FROM {table}"  # noqa: S608 - constants
            f" WHERE databasename IS NULL AND state <> 'Deleted'"
        )
    )
    for row in unnamed.all():
        connection.execute(
            text(f"UPDATE {table} SET databasename = :database WHERE id = :id"),  # noqa: S608 - constants
            {"database": database_name(row.name, row.databasetemplate), "id": row.id},
        )


def _reserve_ids(connection: Connection, table: str) -> None:
    """Give live rows the OdsInstanceId that they lack, above all numbers that were given before."""
    highest = numbers.highest(connection, table)
    reserve = text(_RESERVE_IDS.format(table=table))
    reserved = connection.execute(reserve, {"highest": highest}).rowcount
    numbers.go_on_after(connection, table, highest + reserved)
