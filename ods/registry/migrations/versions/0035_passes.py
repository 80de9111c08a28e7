"""When workers last ran a pass, and the last gap between two of them, in UTC."""

from alembic import op
from sqlalchemy import text

revision = "0035"
down_revision = "0034"

_PASSES = """
ALTER TABLE adminapi.installation
    ADD COLUMN passat timestamp,
    ADD COLUMN gapfrom timestamp,
    ADD COLUMN gapto timestamp
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(text(_PASSES))
