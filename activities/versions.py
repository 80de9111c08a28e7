"""Activities that drop the databases that instances had before resets."""

from dataclasses import replace
from functools import partial

import asyncpg

from activities.concurrency import ConcurrencyLimit
from activities.errors import SupersededError, step
from activities.following import heartbeats
from activities.job_fence import JobFence
from ods.databases import dropping
from ods.databases.errors import DisagreementError
from ods.databases.lookup import has_current
from ods.databases.ownership import Owner
from ods.databases.server import leave_to_job
from ods.model.revisions import KnownRevisions
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.versions import VersionPurge
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant


class VersionActivities:
    """Drops versions of instances from the trash, when their time is over."""

    def __init__(self, tenant: Tenant, limit: ConcurrencyLimit) -> None:
        self._tenant = tenant
        self._fence = JobFence(tenant, limit)

    @step
    async def drop_replaced(self, job: InstanceJob) -> bool:
        """Drop the database that a reset has replaced, if it is not to be kept; true if it was dropped."""
        claimed = await self._tenant.versions.claim_replaced(job)
        for purge in claimed:
            await self.purge_version(purge)
        return bool(claimed)

    @step
    async def purge_version(self, purge: VersionPurge) -> None:
        """Drop a database from the trash that an instance had before a reset.

        Not while the instance is in use, and its own database is gone: the version is all that is left then.
        """
        owner = Owner(
            *(purge.tenant, purge.ods_instance_id, "", purge.mark, purge.installation),
            purge.number,
            database_id=purge.database_id,
        )
        async with heartbeats(), self._fence.of(owner, before_waiting=leave_to_job) as session:
            instance = await self._tenant.versions.instance_of(purge)
            if instance is None:
                return
            revisions = await self._tenant.queries.revisions_of(instance.id)
            if instance.is_live:
                await _require_own(session, owner, instance, revisions)
            known = owner.knowing(revisions)
            before = partial(self._require_version, purge)
            try:
                dropped = await dropping.purge(session, known, purge.database, replaced=True, before=before)
            except SupersededError:
                return
        await self._tenant.versions.finish_purge(purge, dropped=dropped)

    async def _require_version(self, purge: VersionPurge) -> None:
        """Check once more that a version is to be dropped: its instance may be protected, or coming back."""
        await self._tenant.look_before_drop()
        if await self._tenant.versions.instance_of(purge) is None:
            raise SupersededError


async def _require_own(
    session: asyncpg.Connection, version: Owner, instance: DbInstance, known: KnownRevisions
) -> None:
    """Refuse to drop a version of an instance whose own database is not there as the registry knows it."""
    own = replace(version, database_id=str(instance.database_id)).knowing(known)
    if not await has_current(session, own, instance.database_name):
        raise DisagreementError(
            instance.database_name,
            f"The database '{instance.database_name}' of the instance does not exist, or not as the registry"
            " knows it, so what it had before a reset is not dropped. `ods recover` brings that back; when an"
            " instance in the trash is purged, it is dropped.",
        )
