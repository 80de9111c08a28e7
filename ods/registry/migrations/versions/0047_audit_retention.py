"""A function that removes old entries of the audit trail, for a role that may not remove any itself."""

from alembic import op
from sqlalchemy import text

revision = "0047"
down_revision = "0046"

# It runs with the rights of the tables' owner. Whatever its caller asks for, the entries of 30 days stay:
# ODS_AUDIT_RETENTION admits no less. Ids grow with time: old entries are found without reading the others.
_FUNCTION = """
CREATE FUNCTION adminapi.prune_audit(retention interval, at_once int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH removed AS (
        DELETE FROM adminapi.audit
        WHERE id IN (SELECT id FROM adminapi.audit ORDER BY id LIMIT at_once)
          AND at < timezone('utc', now()) - greatest(retention, interval '30 days')
        RETURNING id
    )
    SELECT count(*) FROM removed
$$
"""


def upgrade() -> None:
    """Create the function, which its owner alone may call until `ods grants` is run."""
    op.execute(text(_FUNCTION))
    op.execute(text("REVOKE EXECUTE ON FUNCTION adminapi.prune_audit FROM PUBLIC"))
