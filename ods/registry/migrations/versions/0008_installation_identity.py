"""What tells a registry from a copy of it, and what jobs wait for and know."""

from alembic import op
from sqlalchemy import text

revision = "0008"
down_revision = "0007"

_COLUMNS = """
ALTER TABLE adminapi.installation
    ADD COLUMN registrysystem varchar(20),
    ADD COLUMN registrydatabase bigint,
    ADD COLUMN serversystem varchar(20),
    ADD COLUMN neighbours uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE adminapi.jobstatuses
    ADD COLUMN waitingfor text,
    ADD COLUMN waitingsince timestamp,
    ADD COLUMN waitinguntil timestamp;
ALTER TABLE adminapi.dbinstances
    ADD COLUMN knownnumber int,
    ADD COLUMN knownattempt int,
    ADD COLUMN outages int NOT NULL DEFAULT 0
"""


def upgrade() -> None:
    """Add the columns; who this installation is, the service finds out when it first connects."""
    for statement in _COLUMNS.split(";"):
        op.execute(text(statement))
