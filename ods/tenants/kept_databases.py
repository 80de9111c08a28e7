"""Databases that a client has kept: their comments say so, for a registry that is put back to before that."""

import asyncio
from contextlib import suppress

import asyncpg

from ods.databases.changing import MARK, change
from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import DatabaseRows, find, revisions_of
from ods.databases.ownership import KnownOwner, with_revision
from ods.databases.server import leave_to_job
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import InstallationNotConfirmedError
from ods.tenants.job_owners import owner_of
from ods.tenants.tenant import Tenant

_SERVER_SECONDS = 5
"""A client waits for the server no longer; then the next pass writes to the comments."""


class KeptDatabases:
    """Writes the revisions that are due (`ods.registry.instances.revisions.renew`) into the comments."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    async def mark(self, instance_id: int | None) -> None:
        """Write them at once, unless a job works on the instance or the server is away: then a pass does."""
        jobs = self._tenant.jobs
        job = None if instance_id is None else await jobs.job_before_renewal(instance_id)
        if job is None:
            return
        with suppress(DatabaseFaultError, InstallationNotConfirmedError, TimeoutError):
            async with (
                asyncio.timeout(_SERVER_SECONDS),
                self._tenant.server.locked(job.mark, leave_to_job) as session,
            ):
                await self._tenant.installation.require_confirmed(session)
                await self.write(session, job)

    async def write(self, session: asyncpg.Connection, job: InstanceJob) -> None:
        """Write them behind the fence; record which revisions the databases of the job's instance have.

        The comment of a database stays on which registry and server do not agree, until they do.
        """
        jobs, known = self._tenant.jobs, await self._tenant.jobs.known_revisions(job)
        owner, last = owner_of(job).knowing(known), {one.database_id: one.id for one in known.due}
        found = await find(session, owner) if last else {}
        over = [one for one, due in last.items() if await _is_written(session, owner, found, one, due)]
        tried = [one.id for one in known.due if one.database_id in over]
        await jobs.resolve(job, await revisions_of(session, owner), tried)


async def _is_written(
    session: asyncpg.Connection, owner: KnownOwner, found: DatabaseRows, database_id: str, due: str
) -> bool:
    """Write it; false if registry and server do not agree, so that it stays due."""
    its = [(row, row.marked) for row in found.values() if row.marked and row.is_of(owner)]
    match [(row, marked) for row, marked in its if marked.database_id == database_id]:
        case [(row, marked)] if marked.agrees_with(owner) and not row.is_invalid:
            comment = with_revision(row.comment, due, is_protected=owner.is_protected)
            await change(session, row.name, row.oid, MARK, comment=comment)
            return True
        case its_rows:
            return all(row.is_invalid for row, _ in its_rows)  # it is gone
