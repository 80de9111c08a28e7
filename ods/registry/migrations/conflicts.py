"""Rows that break a rule a migration is about to set."""

from sqlalchemy import Connection, text


class ConflictingRowsError(Exception):
    """Existing rows break a rule of the registry; the message names both, and nothing was changed."""


def require_none(connection: Connection, rule: str, query: str, remedy: str = "Mend these rows") -> None:
    """Stop the migration if `query` finds rows.

    Args:
        connection: the transaction of the migrations.
        rule: what is wrong with such rows.
        query: its first column says which rows they are.
        remedy: what the operator can do with them.

    Raises:
        ConflictingRowsError: there are such rows.
    """
    rows = [str(row[0]) for row in connection.execute(text(query))]
    if rows:
        raise ConflictingRowsError(f"{rule}: {'; '.join(rows)}. {remedy}, then migrate again.")
