"""What would have come about in the months before, for charts: sizes of each day, and jobs."""

import asyncpg

# Each grows to the size that its database has, or would have.
_SIZES = """
INSERT INTO adminapi.databasesizes (instanceid, day, bytes)
SELECT id, current_date - before, size * (1 - before * (2 + id % 3) / 600.0)
FROM adminapi.managed_instances
JOIN LATERAL (
    SELECT coalesce((SELECT pg_database_size(datname) FROM pg_database WHERE datname = databasename), 8000000)
) AS sizes (size) ON true
CROSS JOIN generate_series(0, 89) AS before
WHERE state <> 'Deleted'
"""
_SUMS = """
INSERT INTO adminapi.totalsizes (day, bytes, databases)
SELECT day, sum(bytes), count(*) FROM adminapi.databasesizes GROUP BY day
"""
_JOBS = """
INSERT INTO adminapi.jobstatuses
    (jobid, operation, databasetemplate, status, createdat, startedat, finishedat)
SELECT operation || 'InstanceJob-0-' || number || '-' || before, operation, 'Minimal',
       CASE WHEN before % 9 = 4 AND number = 1 THEN 'Error' ELSE 'Completed' END,
       at, at, at + make_interval(secs => seconds * (1 + (before * 37 + number * 61) % 100 / 40.0))
FROM generate_series(1, 29) AS before
CROSS JOIN (
    VALUES ('Create', 0.6, 4), ('Backup', 25, 2), ('Rename', 0.2, 1)
) AS kinds (operation, seconds, few)
CROSS JOIN LATERAL generate_series(1, few + before * 7 % 4) AS number
CROSS JOIN LATERAL (
    SELECT CAST(current_date - before AS timestamp) + make_interval(hours => 7 + number)
) AS times (at)
"""


async def add_history(registry: asyncpg.Connection) -> None:
    """Add it for the instances that there are."""
    async with registry.transaction():
        await registry.execute("SET LOCAL TimeZone = 'UTC'")
        for statement in (_SIZES, _SUMS, _JOBS):
            await registry.execute(statement)
