"""Rows of the registry as a large installation has them, without databases."""

import asyncpg

_INSERT = """
WITH instances AS (
    INSERT INTO adminapi.dbinstances
        (name, odsinstanceid, odsinstancename, status, databasetemplate, databasename, operation, arguments,
         jobnumber, attempt, lastmodifieddate)
    SELECT format('Listed %s', row), nextval(pg_get_serial_sequence('dbo.odsinstances', 'odsinstanceid')),
           format('Listed %s', row), CASE WHEN row % $2::int = 0 THEN 'Completed' ELSE 'Deleted' END,
           'Minimal', format('EdFi_Ods_Listed_%s_Minimal', row),
           CASE WHEN row % $2::int = 0 THEN 'Create' ELSE 'Delete' END,
           CASE WHEN row % $2::int = 0
                THEN '{"origin": {}}' ELSE '{"keep": false, "backup_first": false}' END::jsonb,
           1, 1, now()
    FROM generate_series(1, $1::int) AS row
    RETURNING id, odsinstanceid, operation
)
INSERT INTO adminapi.jobstatuses
    (jobid, status, createdat, startedat, finishedat, dbinstanceid, operation, databasetemplate)
SELECT format('%sInstanceJob-%s-1', operation, odsinstanceid), 'Completed', now(), now(), now(), id,
       operation, 'Minimal'
FROM instances
"""


async def insert_instances(registry: asyncpg.Connection, rows: int, *, one_live_of: int) -> None:
    """Insert `Listed 1` and so on, each with its last job; one of so many is live, the others are deleted."""
    await registry.execute(_INSERT, rows, one_live_of)
    await registry.execute("UPDATE adminapi.databases SET publishedat = now()")
    tables = "adminapi.dbinstances, adminapi.databases, adminapi.jobstatuses"
    await registry.execute(f"VACUUM (ANALYZE) {tables}")
