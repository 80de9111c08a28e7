"""Which attempt at which job of an instance a client has cancelled while it ran."""

from alembic import op
from sqlalchemy import text

revision = "0042"
down_revision = "0041"

_RECORD = """
ALTER TABLE adminapi.dbinstances
    ADD COLUMN cancellednumber integer,
    ADD COLUMN cancelledattempt integer
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(text(_RECORD))
