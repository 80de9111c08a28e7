"""Making the copy that a snapshot is."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg

from activities.following import Following, require_session, watched
from ods.backups.copying import copy_contents
from ods.backups.monitoring import program_log
from ods.backups.snapshots import Database
from ods.databases.ownership import Owner
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.snapshots import Snapshots


async def make_snapshot(  # noqa: PLR0913, PLR0917 - the parts of a step
    snapshots: Snapshots,
    session: asyncpg.Connection,
    job: InstanceJob,
    owner: Owner,
    following: Following,
    report: Callable[[], Awaitable[object]],
) -> None:
    """Copy the database of the instance, and publish the copy; see `Snapshots.make`.

    Args:
        snapshots: the snapshots of the tenant.
        session: a session that holds the fence of the instance. As soon as it has ended, the copy ends.
        job: the job.
        owner: the instance.
        following: told how far the copy is.
        report: awaited each second meanwhile.

    Raises:
        DatabaseFaultError: the server is away, …
        BackupFaultError: pg_dump or pg_restore is missing, older than the server, or has failed.
    """

    async def copy(source: Database, private: Database) -> None:
        with program_log() as log:
            copying = copy_contents(source, private, replace(log, report=following.report))
            await watched(copying, require_session(session, report))

    await snapshots.make(session, job, owner, copy)
