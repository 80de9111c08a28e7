"""A table that makes the dump of a database large."""

INTERRUPTIBLE_ROWS = 20_000
"""So many that there is time to interrupt a dump, or to look at it."""
_FILL = """
CREATE TABLE filling AS
SELECT row, (SELECT string_agg(sha512(format('%s %s', row, part)::bytea), '')
             FROM generate_series(1, 16) AS part) AS noise
FROM generate_series(1, {}) AS row
"""


def filling(rows: int = INTERRUPTIBLE_ROWS) -> str:
    """SQL that makes the table; each row is a kilobyte of digests, which cannot be compressed."""
    return _FILL.format(rows)
