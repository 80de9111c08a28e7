"""For how long a job has waited for the end of an outage, or for the operator: that is no work."""

from alembic import op
from sqlalchemy import text

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    """Add the column; what jobs have waited for before is not known."""
    op.execute(text("ALTER TABLE adminapi.jobstatuses ADD COLUMN waitedseconds float8 NOT NULL DEFAULT 0"))
