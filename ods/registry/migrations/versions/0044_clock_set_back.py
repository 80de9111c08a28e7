"""When a pass of the workers last ran before the registry's clock was set back."""

from alembic import op
from sqlalchemy import text

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    """Add the column."""
    op.execute(text("ALTER TABLE adminapi.installation ADD COLUMN setbackfrom timestamp"))
