"""Rows of the registry for pages to show, behind which there is nothing on a server."""

import asyncpg

from ods.model.operations import Template
from ods.registry.instances.store import InstanceStore


async def add_backup(
    registry: asyncpg.Connection, instances: InstanceStore, name: str, job_status: str = "Completed"
) -> str:
    """A stored backup of an instance with this name, of which only the registry knows; returns its id."""
    requested = await instances.reserve("Grand Bend", Template.MINIMAL)
    job = requested.job.job_id
    await registry.execute("UPDATE adminapi.jobstatuses SET status = $1 WHERE jobid = $2", job_status, job)
    backup = await registry.fetchval(
        """
        INSERT INTO adminapi.backups (
            id, instanceid, odsinstanceid, mark, installation, name, kind, jobid, template, createdat,
            details, storedid, sizebytes, databasesizebytes, sha256, postgresversion, encrypted, location,
            takenat, finishedat
        )
        SELECT gen_random_uuid(), $1, 1, gen_random_uuid(), gen_random_uuid(), $2, 'requested', $3, 'Minimal',
            at, '{}', gen_random_uuid(), 8123456, 81234567, repeat('a', 64), '18.0', false,
            'file:///backups/one', at, at
        FROM CAST(now() AT TIME ZONE 'UTC' AS timestamp) AS at
        RETURNING id
        """,
        *(requested.instance.id, name, job),
    )
    return str(backup)


async def add_snapshot(registry: asyncpg.Connection, instance_id: int) -> int:
    """A complete snapshot of the instance; returns its id."""
    snapshot: int = await registry.fetchval(
        """
        INSERT INTO adminapi.snapshots (instanceid, jobnumber, databasename, databaseid, status, createdat)
        SELECT id, 99, 'EdFi_Ods_Snapshot_99', databaseid, 'Completed', timezone('utc', now())
        FROM adminapi.dbinstances WHERE id = $1
        RETURNING id
        """,
        instance_id,
    )
    return snapshot
