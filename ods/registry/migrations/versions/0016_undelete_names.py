"""An undelete under another name reserves that name, as a rename does, and not the instance's own.

Another instance may have the own name by then. What an undelete has reserved in vain is free again.
"""

from alembic import op
from sqlalchemy import text

revision = "0016"
down_revision = "0015"

_LIVE = "state <> 'Deleted' AND operation <> 'Purge'"
_HAS_NAMES = f"{_LIVE} AND (operation <> 'Undelete' OR newname IS NULL)"
_INDEXES = (
    ("uq_dbinstances_live_name", "name", _HAS_NAMES),
    ("uq_dbinstances_live_databasename", "databasename", _HAS_NAMES),
    ("uq_dbinstances_newname", "newname", _LIVE),
    ("uq_dbinstances_newdatabasename", "newdatabasename", _LIVE),
)


def upgrade() -> None:
    """Make the indexes of names anew."""
    for index, column, condition in _INDEXES:
        op.execute(text(f"DROP INDEX adminapi.{index}"))
        op.execute(text(f"CREATE UNIQUE INDEX {index} ON adminapi.dbinstances ({column}) WHERE {condition}"))
