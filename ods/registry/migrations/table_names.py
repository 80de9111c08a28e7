"""The names of the table of the instances, and what is named after it."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ods.registry.storage.models import FIRST_NAME, RENAMED_TABLE

_FOUND = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace('adminapi') AND relkind IN ('r', 'p') AND relname IN (:first, :renamed)
ORDER BY relname
"""
_RENAME_INDEXES = """
SELECT format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass, renamed)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
CROSS JOIN LATERAL (
    SELECT CASE WHEN indisprimary THEN 'pk_' || :new ELSE replace(relname, :old, :new) END
) AS names (renamed)
WHERE indrelid = CAST(:table AS regclass) AND relname <> renamed
    AND (indisprimary OR starts_with(relname, 'idx_' || :old))
"""


def found(connection: Connection) -> Sequence[str]:
    """The names of the tables of instances that are there: one, none, or both."""
    return connection.scalars(text(_FOUND), {"first": FIRST_NAME, "renamed": RENAMED_TABLE}).all()


def exists(connection: Connection, name: str) -> bool:
    """Whether the schema `adminapi` has a relation of this name."""
    return connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"adminapi.{name}"}) is not None


def rename(connection: Connection, old: str, new: str) -> None:
    """Give the table, if there is one, another name, and with it what the Admin API names after it."""
    if old == new or not exists(connection, old):
        return
    connection.execute(text(f"ALTER TABLE adminapi.{old} RENAME TO {new}"))
    names = {"table": f"adminapi.{new}", "old": old, "new": new}
    for statement in connection.scalars(text(_RENAME_INDEXES), names).all():
        connection.exec_driver_sql(statement)
