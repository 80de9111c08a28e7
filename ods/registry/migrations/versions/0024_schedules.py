"""Scheduled backups and snapshots: for which time each was made, and how long it is kept."""

from alembic import op
from sqlalchemy import text

revision = "0024"
down_revision = "0023"

_BACKUPS = """
ALTER TABLE adminapi.backups
    ADD COLUMN dueat timestamp,
    ADD COLUMN changesign text,
    ADD COLUMN unchangedat timestamp,
    ADD COLUMN expiresat timestamp
"""
_STATEMENTS = (
    "ALTER TABLE adminapi.dbinstances ADD COLUMN backupdueat timestamp, ADD COLUMN snapshotdueat timestamp",
    "ALTER TABLE adminapi.snapshots ADD COLUMN dueat timestamp",
    _BACKUPS,
    "CREATE INDEX ix_backups_expiry ON adminapi.backups (expiresat) WHERE expiresat IS NOT NULL",
)


def upgrade() -> None:
    """Add the columns and the index."""
    for statement in _STATEMENTS:
        op.execute(text(statement))
