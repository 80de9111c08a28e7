"""What clients may do, for how long, and since when; and the time until which they may register themselves.

An Admin API may have made `adminapi.applications`, and go on adding rows: each column of ours
may be null or has a default.
"""

from alembic import op
from sqlalchemy import text

revision = "0009"
down_revision = "0008"

# The defaults of `createdat` and `generation` are set afterwards: it is not known when the clients that are
# there were made, and they have the generation of tokens that name none.
_STATEMENTS = """
ALTER TABLE adminapi.applications
    ADD COLUMN scope varchar(20) NOT NULL DEFAULT 'full_access'
        CONSTRAINT ck_applications_scope CHECK (scope IN ('full_access', 'read_only')),
    ADD COLUMN enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN generation uuid,
    ADD COLUMN createdat timestamp,
    ADD COLUMN lastusedat timestamp,
    ADD COLUMN expiresat timestamp;
ALTER TABLE adminapi.applications
    ALTER COLUMN generation SET DEFAULT gen_random_uuid(),
    ALTER COLUMN createdat SET DEFAULT timezone('utc', now());
CREATE TABLE adminapi.registration (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    openuntil timestamp
);
INSERT INTO adminapi.registration DEFAULT VALUES
"""


def upgrade() -> None:
    """Add the columns; create the table and its one row."""
    for statement in _STATEMENTS.split(";"):
        op.execute(text(statement))
