"""Since when tokens that an Admin API has issued to a client count.

They name no generation. Once a client was disabled, or has another secret, earlier ones shall not count; nor
those of a client that was removed, for another one with its id.
"""

from alembic import op
from sqlalchemy import text

revision = "0052"
down_revision = "0051"

# The first token of a client that an Admin API adds may have an earlier time: its clock may be late.
_STATEMENTS = """
ALTER TABLE adminapi.applications ADD COLUMN tokenssince timestamp;
ALTER TABLE adminapi.applications
    ALTER COLUMN tokenssince SET DEFAULT timezone('utc', now()) - interval '5 seconds'
"""


def upgrade() -> None:
    """Add the column; for clients that are there, all tokens count that have not ended."""
    for statement in _STATEMENTS.split(";"):
        op.execute(text(statement))
