"""Whether a client may download backups; null, as for the rows of an Admin API: if it has full access."""

from alembic import op
from sqlalchemy import text

revision = "0046"
down_revision = "0045"


def upgrade() -> None:
    """Add the column."""
    op.execute(text("ALTER TABLE adminapi.applications ADD COLUMN backupdownload boolean"))
