"""The activity that makes backups. It takes long, and has a task queue of its own."""

import asyncio
import logging
from functools import partial
from uuid import UUID

from activities.backup_requests import backup_request, stored_backup
from activities.errors import SupersededError, step
from activities.following import Following, ends_wait, heartbeats, watched
from ods.backups.backing_up import back_up, program_label
from ods.backups.manifest import Manifest
from ods.backups.snapshots import Database
from ods.databases.dropping import end_programs
from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import choose, find, require_usable
from ods.model.operations import InstanceStatus
from ods.observability.logs import fault_name
from ods.registry.backups.rows import without_zone
from ods.registry.backups.stored import StoredBackup
from ods.registry.instances.jobs import InstanceJob
from ods.tenants.backup_store import last_stored
from ods.tenants.job_owners import owner_of
from ods.tenants.known_store import store_for_backup
from ods.tenants.tenant import Tenant

_REPORT_SECONDS = 1
"""How often the registry is told how far a backup is, and asked whether it is still wanted."""

_logger = logging.getLogger(__name__)


class BackupActivities:
    """Makes the backups of one tenant."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @step
    async def back_up(self, job: InstanceJob) -> StoredBackup:
        """Store a backup of the instance's database, which stays in use.

        Each try stores under an id of its own: an earlier try that still runs writes into no other.
        `BackupCleaning` removes what a try leaves. A whole backup that an earlier try of this attempt has
        stored is the job's. One of an earlier attempt is the job's only if there is no database any more: a
        client who retries wants the data of now.
        """
        following = Following()
        async with heartbeats(following.details):
            await self._require_due(job)
            if job.makes_backup is None:
                raise SupersededError
            backup = (await self._tenant.backups.get(UUID(job.makes_backup))).backup
            store = await store_for_backup(self._tenant)
            earlier = await last_stored(store, self._tenant, backup)
            if earlier is not None and await self._is_of_attempt(job, earlier):
                return stored_backup(earlier, store)
            try:
                database = await self._database_of(job)
            except DatabaseFaultError as fault:
                if earlier is None or fault.outage:
                    raise
                return stored_backup(earlier, store)
            request = await backup_request(self._tenant, backup, job.database)
            with following.monitor() as monitor:
                making = back_up(database, store, request, monitor, self._tenant.settings.recipients)
                async with ends_wait(self._tenant.jobs, job, following.moved):
                    made = await watched(making, self._report(job, following))
            return stored_backup(made, store)

    async def _require_due(self, job: InstanceJob) -> None:
        if not await self._tenant.jobs.holds(job, InstanceStatus.IN_PROGRESS):
            raise SupersededError

    async def _is_of_attempt(self, job: InstanceJob, stored: Manifest) -> bool:
        """Whether a backup has the data of a moment since the attempt at the job began."""
        row = await self._tenant.queries.job(job.job_id)
        begun_at = None if row is None else row.started_at
        return begun_at is not None and without_zone(stored.created_at) >= begun_at

    async def _database_of(self, job: InstanceJob) -> Database:
        """The instance's database, by its mark; programs of earlier tries at it are ended.

        The fence is held meanwhile, so that a late attempt ends no programs of the next one.
        """
        server, owner = self._tenant.server, owner_of(job)
        is_due = partial(self._require_due, job)
        async with server.fenced(owner, before_waiting=is_due) as session:
            await is_due()
            await self._tenant.installation.require_confirmed(session)
            found = await find(session, owner, job.database)
            if choose(found, owner, [job.database]) is None:
                raise DatabaseFaultError(
                    f"There is no database '{job.database}' with the mark of this instance. `ods drift` tells"
                    " more."
                )
            require_usable(found[job.database])
            await end_programs(session, program_label(UUID(job.mark)))
        # Names can be exchanged by hand from now on.
        return Database(server, job.database, found[job.database].oid)

    async def _report(self, job: InstanceJob, following: Following) -> None:
        """Record how far the job is until this is cancelled."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            try:
                held = await self._tenant.jobs.record_progress(job, following.percent, following.eta_seconds)
            except Exception as error:  # noqa: BLE001 - the registry is away, which says nothing of the backup
                _logger.info("The progress of %s is not recorded: %s", job.job_id, fault_name(error))
                continue
            if not held:
                raise SupersededError
