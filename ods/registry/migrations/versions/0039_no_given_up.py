"""What tries at backups have stored is no longer given up: it is recorded."""

from alembic import op
from sqlalchemy import text

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    """Drop the column."""
    op.execute(text("ALTER TABLE adminapi.backups DROP COLUMN givenup"))
