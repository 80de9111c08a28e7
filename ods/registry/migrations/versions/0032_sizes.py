"""The history of sizes: of each instance's database, and of all together, once a day."""

from alembic import op
from sqlalchemy import text

revision = "0032"
down_revision = "0031"

_OF_INSTANCES = """
CREATE TABLE adminapi.databasesizes (
    instanceid integer NOT NULL,
    day date NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (instanceid, day)
)
"""
_OF_ALL = """
CREATE TABLE adminapi.totalsizes (
    day date PRIMARY KEY,
    bytes bigint NOT NULL,
    databases integer NOT NULL
)
"""


def upgrade() -> None:
    """Create their tables."""
    op.execute(text(_OF_INSTANCES))
    op.execute(text(_OF_ALL))
