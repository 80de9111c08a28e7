"""Which stores of backups a registry has used, and an index of the backups that are not known to be whole."""

from alembic import op
from sqlalchemy import text

revision = "0034"
down_revision = "0033"

_STORES = "ALTER TABLE adminapi.installation ADD COLUMN backupstores jsonb NOT NULL DEFAULT '{}'"
_UNVERIFIED = """
CREATE INDEX ix_backups_unverified ON adminapi.backups (finishedat)
WHERE verification IN ('Pending', 'InProgress', 'Error')
"""


def upgrade() -> None:
    """Add both."""
    for statement in (_STORES, _UNVERIFIED):
        op.execute(text(statement))
