"""People who sign in to the console at an issuer: their scope, and the ways to sign in that are under way."""

from alembic import op
from sqlalchemy import text

revision = "0033"
down_revision = "0032"

_SCOPE = """
ALTER TABLE adminapi.consolesessions
    ADD COLUMN scope varchar(20) CHECK (scope IN ('full_access', 'read_only'))
"""
_ATTEMPTS = """
CREATE TABLE adminapi.signinattempts (
    digest bytea PRIMARY KEY,
    after text NOT NULL,
    kept jsonb,
    createdat timestamp NOT NULL
)
"""


def upgrade() -> None:
    """Create them."""
    for statement in (_SCOPE, _ATTEMPTS):
        op.execute(text(statement))
