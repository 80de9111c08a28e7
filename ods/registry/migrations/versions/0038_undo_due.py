"""Whether what a rename or an undelete has done to the name of a database may have to be undone."""

from alembic import op
from sqlalchemy import text

revision = "0038"
down_revision = "0037"

_STATEMENTS = (
    "ALTER TABLE adminapi.dbinstances ADD COLUMN undodue boolean NOT NULL DEFAULT false",
    "CREATE INDEX ix_dbinstances_undodue ON adminapi.dbinstances (id) WHERE undodue",
)


def upgrade() -> None:
    """Add the column, and an index of the few rows where it is set."""
    for statement in _STATEMENTS:
        op.execute(text(statement))
