"""The table of the instances is shared with an Admin API: a status for each product, names as it has them.

Its script of July 2026 renames the table, and with it the primary key, the index of names and that of
OdsInstanceIds. What keeps both columns in step is made after the migrations, for it must follow the table.
"""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"

_COLUMN = """
ALTER TABLE adminapi.dbinstances ADD COLUMN state varchar(75);
UPDATE adminapi.dbinstances SET state = status;
ALTER TABLE adminapi.dbinstances
    ALTER COLUMN state SET NOT NULL,
    DROP CONSTRAINT ck_dbinstances_status,
    ADD CONSTRAINT ck_dbinstances_state CHECK (state IN (
        'Pending', 'InProgress', 'Completed', 'Error', 'Pending_Delete', 'Deleted', 'Delete_Failed'))
"""
_OUR_INDEXES = r"""
SELECT indexrelid::regclass::text AS name,
       regexp_replace(pg_get_indexdef(indexrelid), '\mstatus\M', 'state', 'g') AS definition
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE indrelid = 'adminapi.dbinstances'::regclass AND relname ~ '^(uq|ix)_dbinstances_'
    AND pg_get_indexdef(indexrelid) ~ '\mstatus\M'
"""
# As an Admin API has written them, if it did so before this service was installed.
_FOREIGN_WORDS = """
UPDATE adminapi.dbinstances AS instance SET status = foreign_words.status
FROM foreign_words
WHERE instance.id = foreign_words.id AND instance.state = adminapi.state_of_status(foreign_words.status)
"""
_PRIMARY_KEY = """
SELECT quote_ident(conname) FROM pg_constraint
WHERE conrelid = 'adminapi.dbinstances'::regclass AND contype = 'p' AND conname <> 'pk_dbinstances'
"""


def upgrade() -> None:
    """Split the status; name the primary key and the indexes as an Admin API does."""
    for statement in _COLUMN.split(";"):
        op.execute(text(statement))
    for index in op.get_bind().execute(text(_OUR_INDEXES)).all():
        op.execute(text(f"DROP INDEX {index.name}"))
        op.execute(text(index.definition))
    if _exists("pg_temp.foreign_words"):
        op.execute(text(_FOREIGN_WORDS))
    if (primary_key := op.get_bind().scalar(text(_PRIMARY_KEY))) is not None:
        op.execute(text(f"ALTER INDEX adminapi.{primary_key} RENAME TO pk_dbinstances"))
    if _exists("adminapi.idx_dbinstances_name"):
        op.execute(text("DROP INDEX adminapi.ix_dbinstances_name"))
    else:
        op.execute(text("ALTER INDEX adminapi.ix_dbinstances_name RENAME TO idx_dbinstances_name"))
    op.execute(
        text(
            "CREATE INDEX IF NOT EXISTS idx_dbinstances_odsinstanceid ON adminapi.dbinstances (odsinstanceid)"
        )
    )


def _exists(relation: str) -> bool:
    return op.get_bind().scalar(text("SELECT to_regclass(:name)"), {"name": relation}) is not None
