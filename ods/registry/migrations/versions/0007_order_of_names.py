"""The order in which clients of the Admin API expect names, and an index in it for long lists."""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"

# The order of code points, except that characters beyond U+FFFF come before those from U+E000 on, because
# UTF-16 writes them as surrogates. So each of these gets one of two characters put before it, which are in
# that order and beyond all others.
_FUNCTION = r"""
CREATE FUNCTION adminapi.utf16_order(words text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN regexp_replace(
        regexp_replace(words COLLATE "C", U&'([\E000-\FFFF])', U&'\E001\005C1', 'g'),
        U&'([\+010000-\+10FFFF])', U&'\E000\005C1', 'g'
    )
"""
_INDEX = """
CREATE INDEX ix_odsinstances_order
    ON dbo.odsinstances ((adminapi.utf16_order(name) COLLATE "C"), odsinstanceid)
"""


def upgrade() -> None:
    """Create both."""
    op.execute(text(_FUNCTION))
    op.execute(text(_INDEX))
