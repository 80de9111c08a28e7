"""By what a registry knows that no copy of it cleans its store of backups as well."""

from alembic import op
from sqlalchemy import text

revision = "0041"
down_revision = "0040"

_CLAIMS = """
ALTER TABLE adminapi.installation
    ADD COLUMN storeclaim bigint NOT NULL DEFAULT 0,
    ADD COLUMN storeclaimid uuid,
    ADD COLUMN storeconflict text
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(text(_CLAIMS))
