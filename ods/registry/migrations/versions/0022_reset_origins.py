"""Resets to copies and backups: where the databases come from that instances had before."""

from alembic import op
from sqlalchemy import text

revision = "0022"
down_revision = "0021"

_COLUMNS = """
ALTER TABLE adminapi.instanceversions
    ADD COLUMN copyof integer,
    ADD COLUMN copymode varchar(10),
    ADD COLUMN sourcemark uuid,
    ADD COLUMN backupid varchar(64)
"""
# Of the few instances that are being reset: each request for an instance asks whether one copies it.
_INDEX = """
CREATE INDEX ix_dbinstances_replacement ON adminapi.dbinstances (id) WHERE replacement IS NOT NULL
"""


def upgrade() -> None:
    """Add the columns and the index; where earlier versions come from is not known."""
    for statement in (_COLUMNS, _INDEX):
        op.execute(text(statement))
