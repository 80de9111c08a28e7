"""The names of the table of the instances, and what is named after it."""

from sqlalchemy import Connection, text

_INDEXES = """
SELECT indexrelid::regclass::text AS name, relname, indisprimary FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
WHERE indrelid = CAST(:table AS regclass) AND (indisprimary OR starts_with(relname, 'idx_' || :name))
"""


def exists(connection: Connection, name: str) -> bool:
    """Whether the schema `adminapi` has a relation of this name."""
    return connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"adminapi.{name}"}) is not None


def rename(connection: Connection, old: str, new: str) -> None:
    """Give the table, if there is one, another name, and with it what the Admin API names after it."""
    if old == new or not exists(connection, old):
        return
    connection.execute(text(f"ALTER TABLE adminapi.{old} RENAME TO {new}"))
    found = connection.execute(text(_INDEXES), {"table": f"adminapi.{new}", "name": old})
    for index, name, is_primary_key in found.all():
        renamed = f"pk_{new}" if is_primary_key else name.replace(old, new)
        connection.execute(text(f"ALTER INDEX {index} RENAME TO {renamed}"))
