"""Which generation of its template an instance's database is a copy of; not known of those from before."""

from alembic import op
from sqlalchemy import text

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column."""
    op.execute(text("ALTER TABLE adminapi.dbinstances ADD COLUMN templategeneration integer"))
