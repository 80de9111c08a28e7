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
from ods.databases.spares import locked
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
        """Copy the database of the instance by `copy` to one that is empty, and publish that."""
        row = await self.store.of_job(job)
        if row is None:
            raise DatabaseFaultError("The registry has no row of this snapshot. Request it again.")
        mark = SnapshotMark(
            self.tenant, job.ods_instance_id, job.mark, str(row.mark), await self.installation.id()
        )
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

        Those that are in use, those of instances that a job works on, and those that the service's role may
        not drop wait for the next pass.
        """
        due = await self.store.due_removals(_REMOVALS_A_PASS)
        if not due:
            return 0
        async with self.server.session() as session:
            await self.installation.require_confirmed(session)
            return sum([await self._removed(session, removal) for removal in due])

    async def _removed(self, session: asyncpg.Connection, removal: SnapshotRemoval) -> bool:
        """As `_remove`; one that cannot be dropped is reported, and does not keep others from being."""
        try:
            return await self._remove(session, removal)
        except DatabaseFaultError as fault:
            if fault.outage:
                raise
            _logger.warning("The snapshot '%s' is left to the next pass: %s", removal.database, fault.reason)
            return False

    async def _remove(self, session: asyncpg.Connection, removal: SnapshotRemoval) -> bool:
        mark = SnapshotMark(
            self.tenant,
            removal.ods_instance_id,
            removal.instance_mark,
            removal.mark,
            await self.installation.id(),
        )
        async with locked(session, removal.instance_mark) as is_free:
            # The job that was to make it may have begun again.
            if not is_free or not await self.store.is_due(removal):
                return False
            if not await snapshots.remove(session, removal.database, mark, by_force=removal.by_force):
                return False
            await self.store.forget(removal)
            return True
