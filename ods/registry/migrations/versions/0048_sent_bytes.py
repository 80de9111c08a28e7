"""How many bytes of a download were sent."""

from alembic import op
from sqlalchemy import text

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    """Add the column."""
    op.execute(text("ALTER TABLE adminapi.audit ADD COLUMN sentbytes bigint"))
