"""Making backups: of a database in use, and of one in the trash before it is dropped.

The activity for the first takes long, and has a task queue of its own.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from activities.backup_requests import backup_request, stored_backup
from activities.errors import SupersededError, step
from activities.following import FencedWork, Following, ends_wait, heartbeats, watched
from ods.backups.backing_up import back_up, program_label
from ods.backups.errors import BackupFaultError
from ods.backups.manifest import Manifest
from ods.backups.restoring import read_dump
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.databases.droppable import find_in_trash
from ods.databases.dropping import end_programs
from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import choose, find, require_no_version_in_trash, require_usable
from ods.databases.trash_backup import while_open
from ods.model.operations import InstanceStatus
from ods.observability.logs import fault_name
from ods.registry.backups.records import proven_state
from ods.registry.backups.rows import VERIFICATION_FAILED, without_zone
from ods.registry.backups.stored import StoredBackup
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import last_stored, load_whole, lost_final
from ods.tenants.job_owners import owner_of
from ods.tenants.known_store import known_store, store_for_backup, unshared_store
from ods.tenants.tenant import Tenant

_REPORT_SECONDS = 1
"""How often the registry is told how far a backup is, and asked whether it is still wanted."""

_JUST_NOW = timedelta(seconds=10)
"""A backup that was verified within this time is not read again before its database is dropped."""
_STATE_UNKNOWN = ""
"""In place of the state of a database: no database has it."""

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


async def make_final_backup(tenant: Tenant, work: FencedWork, job: InstanceJob) -> bool:
    """Store a backup of the database in the trash and record it, unless there is one of it as it is now.

    Nothing is made if there is no database any more, or if a DROP of it was interrupted and it was backed up
    before. Returns whether there is a database. If there is none, a backup that an earlier try has stored is
    recorded; if no try has, a database from before a reset must not be all that is left.
    """
    session, owner, trash = work.session, work.owner, job.trash_database
    found = await find_in_trash(session, owner, trash)
    if found is None:
        if not await _record_last_try(tenant, job):
            await require_no_version_in_trash(session, owner)
        return False
    backup = await _backup_of(tenant, job)
    if found.is_invalid and proven_state(backup) == found.state:
        return True
    store = await store_for_backup(tenant)
    if not found.is_invalid and await _shows(store, tenant, backup, found.state):
        return True

    async def store_backup() -> Manifest:
        request = await backup_request(tenant, backup, trash)
        with work.following.monitor() as monitor:
            making = back_up(
                Database(tenant.server, trash), store, request, monitor, tenant.settings.recipients
            )
            return await work.done(making)

    made, closed = await while_open(session, owner, trash, job.job_id, store_backup)
    stored = stored_backup(made, store)
    if not await tenant.jobs.record_final_backup(job, stored, closed):
        raise _deleted(job)
    return True


async def require_final_backup(tenant: Tenant, job: InstanceJob) -> None:
    """Check that the purge's backup is in the known store, and encrypted for the recipients of now.

    It is read again unless it was verified just now: the store may have been put back or damaged since.

    Raises:
        BackupFaultError: it is not, or is damaged; the store is another one, is away or refuses.
    """
    backup, store = await _backup_of(tenant, job), await known_store(tenant)
    stored = await load_whole(store, tenant.name, backup)
    if stored is None:
        raise BackupFaultError(
            f"The backup {backup.id} is not in {store.location()} any more. Nothing was dropped. Retry:"
            " another one is made."
        )
    if not stored.is_encrypted_to(tenant.settings.recipients):
        raise BackupFaultError(
            f"The backup {backup.id} is not encrypted to just the keys that ODS_BACKUP_RECIPIENTS names now."
            " Nothing was dropped. Retry: another one is made."
        )
    if not _was_verified_just_now(backup):
        await _require_undamaged(store, tenant, backup, stored)


def _was_verified_just_now(backup: Backup) -> bool:
    """Whether it was, by this machine's clock; if that is wrong, the backup is read once more."""
    now = without_zone(datetime.now(UTC))
    return backup.verified_at is not None and abs(now - backup.verified_at) < _JUST_NOW


async def _require_undamaged(store: BackupStore, tenant: Tenant, backup: Backup, stored: Manifest) -> None:
    """Read a backup that was verified; if it is damaged by now, record that and refuse to drop."""
    try:
        async for _ in read_dump(store, stored):
            pass
    except BackupFaultError as fault:
        if not fault.is_verdict:
            raise
        await tenant.backups.finish_proof(backup, fault.reason)
        raise BackupFaultError(f"{fault.reason} Nothing was dropped. Retry: another one is made.") from None


async def _record_last_try(tenant: Tenant, job: InstanceJob) -> bool:
    """Record what an earlier try has stored and could not record; returns whether a backup is recorded.

    It may be of a purge that a restored registry has forgotten. With the database gone, it is all there is;
    the pass verifies it.
    """
    if (backup := await tenant.backups.final_of(job)) is None:
        return False
    store = await unshared_store(tenant)
    last = await last_stored(store, tenant, backup) or await lost_final(store, tenant, backup)
    if last is None or (backup.finished_at and backup.finished_at >= without_zone(last.finished_at)):
        return backup.stored_id is not None
    return await tenant.jobs.record_final_backup(job, stored_backup(last, store), _STATE_UNKNOWN)


async def _backup_of(tenant: Tenant, job: InstanceJob) -> Backup:
    if (backup := await tenant.backups.final_of(job)) is None:
        raise _deleted(job)
    return backup


async def _shows(store: BackupStore, tenant: Tenant, backup: Backup, state: str) -> bool:
    """Whether the backup is stored, for the recipients of now, and shows the database as it is now."""
    if backup.database_state != state or backup.verification == VERIFICATION_FAILED:
        return False
    stored = await load_whole(store, tenant.name, backup)
    return stored is not None and stored.is_encrypted_to(tenant.settings.recipients)


def _deleted(job: InstanceJob) -> DatabaseFaultError:
    return DatabaseFaultError(
        f"The backup {job.makes_backup} was deleted before the database was dropped. Nothing was dropped."
        f" Request it again: DELETE /v2/trash/{job.instance_id}?finalBackup=true, or `ods instance purge"
        " --final-backup`."
    )
