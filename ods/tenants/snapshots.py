"""Making and dropping snapshots of instances: what registry and server must agree on."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from ods.backups.snapshots import Database
from ods.databases import snapshots
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import Owner
from ods.databases.server import Server
from ods.databases.snapshots import SnapshotMark, SnapshotRequest
from ods.databases.templates.spares import locked
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.jobs import InstanceJob
from ods.registry.snapshots.store import SnapshotRemoval, SnapshotStore
from ods.tenants.installation_check import InstallationCheck

_REMOVALS_A_PASS = 20
"""Snapshots that one pass drops: a mistake in the registry is noticed before all are gone."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of one tenant's instances."""

    store: SnapshotStore
    server: Server
    connection_strings: OdsConnectionStrings
    installation: InstallationCheck
    tenant: str

    async def make(
        self,
        session: asyncpg.Connection,
        job: InstanceJob,
        owner: Owner,
        copy: Callable[[Database, Database], Awaitable[None]],
    ) -> None:
        """Copy the instance's database by `copy` to an empty one, and publish that."""
        row = await self.store.of_job(job)
        if row is None:
            raise DatabaseFaultError("The registry has no row of this snapshot. Request it again.")
        mark = await self._mark(job.ods_instance_id, job.mark, str(row.mark))
        wanted = SnapshotRequest(owner, job.database, row.database_name, mark, self.connection_strings.role)
        if (oid := await snapshots.prepare(session, wanted)) is not None:
            source = Database(self.server, job.database, oid)
            await copy(source, Database(self.server, owner.staging_name))
            await snapshots.publish(self.server, session, wanted)

    async def finish(self, job: InstanceJob) -> bool:
        """Record the snapshot of `job`, and have the ODS/API read it; see `SnapshotStore.finish`."""
        row = await self.store.of_job(job)
        if row is None:
            return False
        return await self.store.finish(job, self.connection_strings.encrypted(row.database_name))

    async def remove_abandoned(self, session: asyncpg.Connection, job: InstanceJob) -> None:
        """Drop the snapshot that a job has published and not recorded, and forget it."""
        if (removal := await self.store.abandoned(job)) is not None:
            await self._remove(session, removal)

    async def remove_due(self) -> int:
        """Drop up to `_REMOVALS_A_PASS` snapshots that are due; returns how many are gone.

        Those in use, those whose instance has a job at work, and those that cannot be dropped wait for the
        next pass.
        """
        due = await self.store.due_removals(_REMOVALS_A_PASS)
        if not due:
            return 0
        async with self.server.session() as session:
            await self.installation.require_confirmed(session)
            removed = 0
            for removal in due:
                try:
                    removed += await self._remove(session, removal)
                except DatabaseFaultError as fault:
                    if fault.outage:
                        raise
                    _logger.warning(
                        "The snapshot '%s' is left to the next pass: %s", removal.database, fault.reason
                    )
            return removed

    async def _mark(self, ods_instance_id: int, instance_mark: str, mark: str) -> SnapshotMark:
        return SnapshotMark(self.tenant, ods_instance_id, instance_mark, mark, await self.installation.id())

    async def _remove(self, session: asyncpg.Connection, removal: SnapshotRemoval) -> bool:
        mark = await self._mark(removal.ods_instance_id, removal.instance_mark, removal.mark)
        async with locked(session, removal.instance_mark) as is_free:
            # The job that was to make it may have begun again.
            if not is_free or not await self.store.is_due(removal):
                return False
            if not await snapshots.remove(session, removal.database, mark, by_force=removal.by_force):
                return False
            await self.store.forget(removal)
            return True
