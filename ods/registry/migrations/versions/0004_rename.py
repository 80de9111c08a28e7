"""Renames: the name and the database name that an instance shall have."""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; no two instances shall get one name."""
    op.execute(
        text(
            "ALTER TABLE adminapi.dbinstances"
            " ADD COLUMN newname varchar(100), ADD COLUMN newdatabasename varchar(255)"
        )
    )
    for column in ("newname", "newdatabasename"):
        op.execute(text(f"CREATE UNIQUE INDEX uq_dbinstances_{column} ON adminapi.dbinstances ({column})"))
