"""The names of the table of the instances, and what is named after it."""

from sqlalchemy import Connection, text

_RENAME_INDEXES = """
SELECT format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass, renamed)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
CROSS JOIN LATERAL (
    SELECT CASE WHEN indisprimary THEN 'pk_' || :new ELSE replace(relname, :old, :new) END
) AS names (renamed)
WHERE indrelid = CAST(:table AS regclass) AND relname <> renamed
    AND (indisprimary OR starts_with(relname, 'idx_' || :old))
"""


def exists(connection: Connection, name: str) -> bool:
    """Whether the schema `adminapi` has a relation of this name."""
    return connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"adminapi.{name}"}) is not None


def rename(connection: Connection, old: str, new: str) -> None:
    """Give the table, if there is one, another name, and with it what the Admin API names after it."""
    if old == new or not exists(connection, old):
        return
    connection.execute(text(f"ALTER TABLE adminapi.{old} RENAME TO {new}"))
    found = connection.scalars(text(_RENAME_INDEXES), {"table": f"adminapi.{new}", "old": old, "new": new})
    for statement in found.all():
        connection.exec_driver_sql(statement)
