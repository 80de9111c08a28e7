"""What a manifest of a backup was when it was written, and the key that proves who has written its rights."""

from alembic import op
from sqlalchemy import text

revision = "0049"
down_revision = "0048"

_CHANGES = (
    "ALTER TABLE adminapi.backups ADD COLUMN manifestsha256 varchar(64)",
    "ALTER TABLE adminapi.installation ADD COLUMN backupkey uuid NOT NULL DEFAULT gen_random_uuid()",
)


def upgrade() -> None:
    """Add the columns; the key is another one in each registry."""
    for change in _CHANGES:
        op.execute(text(change))
