"""How often addresses have registered clients and tried to log in, counted by all API processes together."""

from alembic import op
from sqlalchemy import text

revision = "0045"
down_revision = "0044"

# What is counted is void after minutes, and need not survive a crash.
_COUNTS = """
CREATE UNLOGGED TABLE adminapi.attemptcounts (
    digest bytea PRIMARY KEY,
    regainedat timestamp NOT NULL
)
"""


def upgrade() -> None:
    """Create the table and its index."""
    op.execute(text(_COUNTS))
    op.execute(text("CREATE INDEX ix_attemptcounts_regainedat ON adminapi.attemptcounts (regainedat)"))
