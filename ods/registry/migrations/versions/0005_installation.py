"""The identity of this installation, which tells its spare databases from those of others on one server."""

from alembic import op
from sqlalchemy import text

revision = "0005"
down_revision = "0004"

_TABLE = """
CREATE TABLE adminapi.installation (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO adminapi.installation DEFAULT VALUES
"""


def upgrade() -> None:
    """Create the table and its one row."""
    for statement in _TABLE.split(";"):
        op.execute(text(statement))
