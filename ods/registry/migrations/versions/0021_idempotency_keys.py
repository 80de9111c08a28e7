"""Answers to requests that clients have sent under keys of their own."""

from alembic import op
from sqlalchemy import text

revision = "0021"
down_revision = "0020"

_TABLE = """
CREATE TABLE adminapi.idempotencykeys (
    client text NOT NULL,
    key varchar(255) NOT NULL,
    request bytea NOT NULL,
    status int NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    createdat timestamp NOT NULL,
    PRIMARY KEY (client, key)
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(text(_TABLE))
    op.execute(text("CREATE INDEX ix_idempotencykeys_createdat ON adminapi.idempotencykeys (createdat)"))
