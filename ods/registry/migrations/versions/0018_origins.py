"""Where instances come from: another instance that they are a copy of, or a backup."""

from alembic import op
from sqlalchemy import text

revision = "0018"
down_revision = "0017"

_COLUMNS = """
ALTER TABLE adminapi.dbinstances
    ADD COLUMN copyof integer,
    ADD COLUMN copymode varchar(10),
    ADD COLUMN sourcemark uuid,
    ADD COLUMN backupid varchar(64),
    ADD CONSTRAINT dbinstances_origin_check CHECK (
        (copyof IS NULL) = (copymode IS NULL) AND (copyof IS NULL) = (sourcemark IS NULL)
        AND (copyof IS NULL OR backupid IS NULL)
    )
"""
# Of the few instances that are copies.
_INDEX = "CREATE INDEX ix_dbinstances_copyof ON adminapi.dbinstances (copyof) WHERE copyof IS NOT NULL"


def upgrade() -> None:
    """Add the columns; instances that are there come from their templates."""
    for statement in (_COLUMNS, _INDEX):
        op.execute(text(statement))
