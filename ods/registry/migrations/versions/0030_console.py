"""Sessions of the console, and an index by which its open pages learn which instances have changed."""

from alembic import op
from sqlalchemy import text

revision = "0030"
down_revision = "0026"

_TABLE = """
CREATE TABLE adminapi.consolesessions (
    digest bytea PRIMARY KEY,
    client varchar(256) NOT NULL,
    generation uuid,
    createdat timestamp NOT NULL,
    lastusedat timestamp NOT NULL,
    kept jsonb
)
"""
_INDEXES = (
    "CREATE INDEX ix_consolesessions_lastusedat ON adminapi.consolesessions (lastusedat)",
    "CREATE INDEX ix_dbinstances_modified ON adminapi.dbinstances (lastmodifieddate)",
)


def upgrade() -> None:
    """Create them."""
    for statement in (_TABLE, *_INDEXES):
        op.execute(text(statement))
