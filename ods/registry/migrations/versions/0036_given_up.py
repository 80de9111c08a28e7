"""Which tries at a backup have stored a whole one that is removed, and that no later try may take."""

from alembic import op
from sqlalchemy import text

revision = "0036"
down_revision = "0035"

_GIVEN_UP = "ALTER TABLE adminapi.backups ADD COLUMN givenup uuid[] NOT NULL DEFAULT '{}'"


def upgrade() -> None:
    """Add the column."""
    op.execute(text(_GIVEN_UP))
