"""Rows that break a rule a migration is about to set."""

from alembic import op
from sqlalchemy import Connection, text


class ConflictingRowsError(Exception):
    """Existing rows break a rule of the registry; the message names both, and nothing was changed."""


def require_none(
    rule: str, query: str, remedy: str = "Mend these rows", connection: Connection | None = None
) -> None:
    """Stop the migration if `query` finds rows.

    Args:
        rule: what is wrong with such rows.
        query: its first column says which rows they are.
        remedy: what the operator can do with them.
        connection: the connection to the registry; by default that of the migration that runs.

    Raises:
        ConflictingRowsError: there are such rows.
    """
    rows = [str(row[0]) for row in (connection or op.get_bind()).execute(text(query))]
    if rows:
        raise ConflictingRowsError(f"{rule}: {'; '.join(rows)}. {remedy}, then migrate again.")
