"""Indexes for the lists of jobs and of instances, and for the search in names of instances.

The search needs no extension, which the service's role may have no right to create: a function of
`adminapi` takes a name apart into all its runs of three letters, which a GIN index holds.
"""

from alembic import op
from sqlalchemy import text

revision = "0012"
down_revision = "0011"

# In lower case. A name of fewer than three letters has none.
_FUNCTION = """
CREATE FUNCTION adminapi.trigrams(words text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000
    RETURN ARRAY(
        SELECT DISTINCT substr(lower(words), place, 3)
        FROM generate_series(1, length(lower(words)) - 2) AS place
    )
"""
_JOBS = (
    "CREATE INDEX ix_jobstatuses_newest ON adminapi.jobstatuses (createdat, id)",
    "CREATE INDEX ix_jobstatuses_status ON adminapi.jobstatuses (status, createdat, id)",
)
_INSTANCES = (
    (
        "CREATE INDEX ix_dbinstances_order ON adminapi.dbinstances"
        ' ((adminapi.utf16_order(name) COLLATE "C"), id)'
    ),
    "CREATE INDEX ix_dbinstances_search ON adminapi.dbinstances USING gin (adminapi.trigrams(name))",
)


def upgrade() -> None:
    """Create them."""
    for statement in (_FUNCTION, *_JOBS, *_INSTANCES):
        op.execute(text(statement))
