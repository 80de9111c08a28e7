"""What clients say about instances: protection, description, labels, and contexts that are reserved."""

from alembic import op
from sqlalchemy import text

revision = "0014"
down_revision = "0013"

_COLUMNS = """
ALTER TABLE adminapi.dbinstances
    ADD COLUMN isprotected boolean NOT NULL DEFAULT false,
    ADD COLUMN description varchar(500),
    ADD COLUMN labels jsonb,
    ADD COLUMN reservedcontexts jsonb
"""
# Rows without labels, or without reserved contexts, cost these indexes nothing when a job writes them.
_INDEXES = (
    (
        "CREATE INDEX ix_dbinstances_labels ON adminapi.dbinstances USING gin (labels jsonb_path_ops)"
        " WHERE labels IS NOT NULL"
    ),
    "CREATE INDEX ix_dbinstances_reserved ON adminapi.dbinstances (id) WHERE reservedcontexts IS NOT NULL",
)


def upgrade() -> None:
    """Add the columns; the view gets them by itself."""
    for statement in (_COLUMNS, *_INDEXES):
        op.execute(text(statement))
