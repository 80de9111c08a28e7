"""Purges that make a backup first: an operation of their own, which leaves an instance without names."""

from alembic import op
from sqlalchemy import text

revision = "0023"
down_revision = "0022"

_COLUMNS = (
    "ALTER TABLE adminapi.dbinstances ADD COLUMN purgefollows boolean NOT NULL DEFAULT false",
    "ALTER TABLE adminapi.backups ADD COLUMN databasestate varchar(50), ADD COLUMN provenid uuid",
)
_LIVE = "state <> 'Deleted' AND operation <> 'Purge' AND operation <> 'PurgeAfterBackup'"
_HAS_NAMES = f"{_LIVE} AND (operation <> 'Undelete' OR newname IS NULL)"
_INDEXES = (
    ("uq_dbinstances_live_name", "name", _HAS_NAMES),
    ("uq_dbinstances_live_databasename", "databasename", _HAS_NAMES),
    ("uq_dbinstances_live_odsinstanceid", "odsinstanceid", _LIVE),
    ("uq_dbinstances_newname", "newname", _LIVE),
    ("uq_dbinstances_newdatabasename", "newdatabasename", _LIVE),
)


def upgrade() -> None:
    """Add the columns, and make the indexes of live instances anew."""
    for statement in _COLUMNS:
        op.execute(text(statement))
    for index, column, condition in _INDEXES:
        op.execute(text(f"DROP INDEX adminapi.{index}"))
        op.execute(text(f"CREATE UNIQUE INDEX {index} ON adminapi.dbinstances ({column}) WHERE {condition}"))
