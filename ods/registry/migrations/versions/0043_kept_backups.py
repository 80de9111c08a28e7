"""Until when a backup does not expire, of which a restore that was requested in time has failed."""

from alembic import op
from sqlalchemy import text

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    """Add the column."""
    op.execute(text("ALTER TABLE adminapi.backups ADD COLUMN keptuntil timestamp"))
