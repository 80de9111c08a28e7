"""Which of the databases that an instance has had a snapshot is a copy of.

Of those from before, it is the one that the next reset has replaced, or else the one that the instance has.
"""

from alembic import op
from sqlalchemy import text

revision = "0026"
down_revision = "0024"

_FILL = """
UPDATE adminapi.snapshots AS snapshot SET databasemark = (
    SELECT CASE WHEN replaced.id IS NULL THEN instance.databasemark ELSE replaced.databasemark END
    FROM adminapi.dbinstances AS instance
    LEFT JOIN LATERAL (
        SELECT id, databasemark FROM adminapi.instanceversions
        WHERE instanceid = instance.id AND replacedat > snapshot.createdat ORDER BY replacedat LIMIT 1
    ) AS replaced ON true
    WHERE instance.id = snapshot.instanceid
)
"""


def upgrade() -> None:
    """Add the column, and fill it."""
    op.execute(text("ALTER TABLE adminapi.snapshots ADD COLUMN databasemark uuid"))
    op.execute(text(_FILL))
