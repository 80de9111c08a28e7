"""Of each request whose job can publish an instance's database, a mark that is never given again."""

from alembic import op
from sqlalchemy import text

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    """Add the column; what was published before has no such mark."""
    op.execute(text("ALTER TABLE adminapi.dbinstances ADD COLUMN publishrequests text[]"))
