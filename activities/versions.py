"""Activities that drop the databases that instances had before resets."""

from dataclasses import replace
from functools import partial

import asyncpg
from temporalio import activity

from activities.concurrency import ConcurrencyLimit
from activities.errors import SupersededError, as_application_error
from activities.heartbeats import heartbeats
from activities.job_fence import JobFence
from ods.databases import trash
from ods.databases.errors import DisagreementError
from ods.databases.lookup import has_database
from ods.databases.ownership import Owner
from ods.databases.server import leave_to_job
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.versions import VersionPurge
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant


class VersionActivities:
    """Drops versions of instances from the trash, when their time is over.

    Args:
        tenant: the tenant whose databases these are.
        limit: bounds how many databases are worked on at once.
    """

    def __init__(self, tenant: Tenant, limit: ConcurrencyLimit) -> None:
        self._tenant = tenant
        self._fence = JobFence(tenant, limit)

    @activity.defn
    async def drop_replaced(self, job: InstanceJob) -> bool:
        """Drop the database that a reset has replaced, if it is not to be kept; true if it was dropped.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        with as_application_error():
            claimed = await self._tenant.versions.claim_replaced(job)
        for purge in claimed:
            await self.purge_version(purge)
        return bool(claimed)

    @activity.defn
    async def purge_version(self, purge: VersionPurge) -> None:
        """Drop a database that an instance had before a reset from the trash.

        Not while the instance is in use by the registry, and its own database is gone: the version is then
        all that is left of it.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        owner = Owner(
            *(purge.tenant, purge.ods_instance_id, "", purge.mark, purge.number, purge.attempt),
            installation=purge.installation,
            database_mark=purge.database_mark,
        )
        with as_application_error():
            async with heartbeats(), self._fence.of(owner, before_waiting=leave_to_job) as session:
                instance = await self._tenant.versions.instance_of(purge)
                if instance is None:
                    return
                if instance.is_live:
                    await _require_own(session, owner, instance)
                known = owner.knowing(instance.known_requests)
                before = partial(self._require_version, purge)
                try:
                    dropped = await trash.purge(session, known, purge.database, replaced=True, before=before)
                except SupersededError:
                    return
            await self._tenant.versions.finish_purge(purge, dropped=dropped)

    async def _require_version(self, purge: VersionPurge) -> None:
        """Check once more that a version is to be dropped: its instance may be protected, or coming back.

        Raises:
            SupersededError: it is not, any more.
        """
        if await self._tenant.versions.instance_of(purge) is None:
            raise SupersededError


async def _require_own(session: asyncpg.Connection, version: Owner, instance: DbInstance) -> None:
    """Refuse to drop a version of an instance whose own database is gone.

    Raises:
        DisagreementError: no database carries the mark of its own.
        DatabaseFaultError: the server is away, …
    """
    if not await has_database(session, replace(version, database_mark=instance.database_mark_text)):
        raise DisagreementError(
            instance.database_name,
            f"The database '{instance.database_name}' of the instance does not exist, so what it had before"
            f" a reset is not dropped. `ods instance adopt {instance.id} --database NAME` brings that back;"
            " when an instance in the trash is purged, it is dropped.",
        )
