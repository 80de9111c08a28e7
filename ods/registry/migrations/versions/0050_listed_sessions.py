"""Sessions of the console: how they are listed, and when the issuer was asked about a person."""

from alembic import op
from sqlalchemy import text

revision = "0050"
down_revision = "0049"

_COLUMNS = """
ALTER TABLE adminapi.consolesessions
    ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    ADD COLUMN address varchar(64) NOT NULL,
    ADD COLUMN checkedat timestamp NOT NULL,
    ADD COLUMN checkbegunat timestamp,
    ADD COLUMN renewal bytea
"""


def upgrade() -> None:
    """Add the columns; clients and people sign in again, for sessions from before lack them."""
    op.execute(text("DELETE FROM adminapi.consolesessions"))
    op.execute(text(_COLUMNS))
    op.execute(text("CREATE INDEX ix_consolesessions_client ON adminapi.consolesessions (client)"))
