"""Backups of instances, and how far a job is."""

from alembic import op
from sqlalchemy import text

revision = "0017"
down_revision = "0016"

_BACKUPS = """
CREATE TABLE adminapi.backups (
    id uuid PRIMARY KEY,
    instanceid integer NOT NULL,
    odsinstanceid integer NOT NULL,
    mark uuid NOT NULL,
    installation uuid NOT NULL,
    name varchar(100) NOT NULL,
    kind varchar(20) NOT NULL,
    jobid varchar(150) NOT NULL,
    template varchar(100) NOT NULL,
    createdat timestamp NOT NULL,
    details jsonb NOT NULL,
    storedid uuid,
    location text,
    sizebytes bigint,
    databasesizebytes bigint,
    sha256 varchar(64),
    postgresversion varchar(50),
    encrypted boolean,
    takenat timestamp,
    finishedat timestamp,
    verification varchar(20),
    verificationerror text,
    verifiedat timestamp,
    deletedat timestamp
)
"""
_STATEMENTS = (
    _BACKUPS,
    "CREATE INDEX ix_backups_instance ON adminapi.backups (instanceid, createdat)",
    "CREATE INDEX ix_backups_newest ON adminapi.backups (createdat, id)",
    "CREATE UNIQUE INDEX uq_backups_stored ON adminapi.backups (storedid)",
    "ALTER TABLE adminapi.dbinstances ADD COLUMN makesbackup uuid",
    "ALTER TABLE adminapi.jobstatuses ADD COLUMN percent integer, ADD COLUMN etaseconds integer",
)


def upgrade() -> None:
    """Add the table and the columns."""
    for statement in _STATEMENTS:
        op.execute(text(statement))
