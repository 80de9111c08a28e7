"""Links that sign a client in to the console once."""

from alembic import op
from sqlalchemy import text

revision = "0031"
down_revision = "0030"

_TABLE = """
CREATE TABLE adminapi.signinlinks (
    digest bytea PRIMARY KEY,
    client varchar(256) NOT NULL,
    generation uuid,
    createdat timestamp NOT NULL
)
"""


def upgrade() -> None:
    """Create their table."""
    op.execute(text(_TABLE))
