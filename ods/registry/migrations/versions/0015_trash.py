"""The trash: a deleted instance's database is kept for a while, under a private name, and can come back.

What is being purged has no names any more, so the indexes of names leave it out.
"""

from alembic import op
from sqlalchemy import text

revision = "0015"
down_revision = "0014"

_COLUMNS = """
ALTER TABLE adminapi.dbinstances
    ADD COLUMN trashdatabase varchar(63), ADD COLUMN trashedat timestamp, ADD COLUMN deletedby varchar(256),
    ADD COLUMN purgeafter timestamp, ADD COLUMN purgedat timestamp, ADD COLUMN setaside jsonb
"""
_LIVE = "state <> 'Deleted' AND operation <> 'Purge'"


def upgrade() -> None:
    """Add the columns, and make the indexes of live instances anew."""
    op.execute(text(_COLUMNS))
    for column in ("name", "databasename", "odsinstanceid"):
        index = f"uq_dbinstances_live_{column}"
        op.execute(text(f"DROP INDEX adminapi.{index}"))
        op.execute(text(f"CREATE UNIQUE INDEX {index} ON adminapi.dbinstances ({column}) WHERE {_LIVE}"))
    op.execute(
        text(
            "CREATE INDEX ix_dbinstances_trash ON adminapi.dbinstances (purgeafter)"
            " WHERE trashedat IS NOT NULL AND purgedat IS NULL"
        )
    )
