"""The backup of a database in the trash that is made before it is dropped."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
from temporalio import activity

from activities.backup_requests import backup_request, stored_backup
from activities.errors import as_application_error
from activities.following import Following, require_session, watched
from backups.backing_up import back_up
from backups.layout import folder_of
from backups.manifest import Manifest
from backups.monitoring import program_log
from backups.snapshots import Database
from backups.storage import BackupStore
from databases.errors import DatabaseFaultError
from databases.ownership import Owner
from databases.trash_backup import inspect_trash, while_open
from registry.backups.records import proven_state
from registry.backups.rows import VERIFICATION_FAILED
from registry.instances.jobs import InstanceJob
from registry.instances.store import InstanceStore
from registry.storage.models import Backup
from tenants.backup_store import is_whole, open_store
from tenants.tenant import Tenant


class FollowingPurges:
    """Requests the purges that clients have requested together with deletes.

    Args:
        instances: takes the requests.
    """

    def __init__(self, instances: InstanceStore) -> None:
        self._instances = instances

    @activity.defn
    async def request_purge_after(self, trashed: InstanceJob) -> InstanceJob | None:
        """Record the purge that is to follow a delete, which is done; None if none is to follow any more."""
        with as_application_error():
            return await self._instances.request_purge_after(trashed)


async def make_final_backup(  # noqa: PLR0913, PLR0917 - the parts of a step
    tenant: Tenant,
    session: asyncpg.Connection,
    job: InstanceJob,
    owner: Owner,
    following: Following,
    report: Callable[[], Awaitable[object]],
) -> bool:
    """Store a backup of the database in the trash and record it, unless there is one of it as it is now.

    Nothing is made if there is no database to drop any more, nor if a DROP of it, which was backed up, was
    interrupted. Returns whether there is a database.

    Args:
        tenant: the tenant.
        session: a fenced session. As soon as it has ended, the backup ends as well.
        job: the purge.
        owner: the instance.
        following: told how far the backup is.
        report: awaited each second meanwhile.

    Raises:
        NotOursError: the database in the trash is not the instance's.
        DisagreementError: registry and server do not agree that it is in the trash; or a DROP has begun.
        BackupFaultError: pg_dump is missing or older than the server, the store is away or refuses, …
        DatabaseFaultError: a client has deleted the backup, the server is away, …
    """
    trash = job.trash_database or ""
    found = await inspect_trash(session, owner, trash)
    if found is None:
        return False
    backup, store = await _backup_of(tenant, job), open_store(tenant.settings)
    if proven_state(backup) if found.invalid else await _shows(store, tenant, backup, found.state):
        return True

    async def store_backup() -> Manifest:
        request = await backup_request(tenant, backup, trash)
        with program_log() as log:
            monitor = replace(log, report=following.report)
            making = back_up(
                Database(tenant.server, trash), store, request, monitor, tenant.settings.recipients
            )
            return await watched(making, require_session(session, report))

    made, closed = await while_open(session, owner, trash, job.job_id, store_backup)
    stored = stored_backup(made, store.location(folder_of(made.key)))
    if not await tenant.jobs.record_final_backup(job, stored, closed):
        raise _deleted(job)
    return True


async def _backup_of(tenant: Tenant, job: InstanceJob) -> Backup:
    if (backup := await tenant.backups.final_of(job)) is None:
        raise _deleted(job)
    return backup


async def _shows(store: BackupStore, tenant: Tenant, backup: Backup, state: str) -> bool:
    """Whether the backup is stored, and shows the database in the trash as it is now."""
    if backup.database_state != state or backup.verification == VERIFICATION_FAILED:
        return False
    return await is_whole(store, tenant.name, backup)


def _deleted(job: InstanceJob) -> DatabaseFaultError:
    return DatabaseFaultError(
        f"The backup {job.makes_backup} was deleted before the database was dropped. Nothing was dropped."
        f" Request it again: DELETE /v2/trash/{job.instance_id}?finalBackup=true, or `ods instance purge"
        " --final-backup`."
    )
