"""The names of databases that renames have left, and when, in UTC."""

from alembic import op
from sqlalchemy import text

revision = "0037"
down_revision = "0036"

_LEFT = """
CREATE TABLE adminapi.leftdatabasenames (
    databasename varchar(255) NOT NULL,
    instanceid integer NOT NULL,
    leftat timestamp NOT NULL,
    PRIMARY KEY (databasename, instanceid)
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(text(_LEFT))
