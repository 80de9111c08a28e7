"""Activities that verify backups: what is stored is read, restored to a database of its own, and compared."""

from dataclasses import dataclass
from uuid import UUID

from activities.backup_requests import has_own_rights, locale_of, rights_of
from activities.errors import step
from activities.following import Following, ends_wait, heartbeats
from ods.backups.errors import (
    BackupFaultError,
    ProgramFailedError,
    StoreRefusedError,
    UnsuitableProgramError,
    translate_database_faults,
)
from ods.backups.figures import verify
from ods.backups.manifest import Manifest
from ods.backups.monitoring import Monitor, Progress
from ods.backups.restoring import read_dump, restore
from ods.backups.snapshots import Database
from ods.backups.storage import BackupStore
from ods.backups.store_identity import OtherStoreError
from ods.databases.errors import DatabaseFaultError
from ods.databases.rights.inner import give_rights
from ods.databases.scratch import scratch_database
from ods.registry.backups.records import proven_state
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob, tenant_id
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import load_recorded, open_store
from ods.tenants.known_store import known_store
from ods.tenants.tenant import Tenant

_TOLD_AT_MOST = 5
"""Differences that the reason names."""
_RESTORES = 3
"""After so many restores that fail, it is a verdict on the backup: a single session may have failed."""


@dataclass(frozen=True)
class Verification:
    """A backup that is to be verified."""

    tenant: str
    backup_id: str
    policy: ExecutionPolicy

    @property
    def workflow_id(self) -> str:
        """Id of the workflow that verifies the backup: one at a time."""
        return tenant_id(self.tenant, f"verify-backup-{self.backup_id}")


@dataclass(frozen=True)
class Verdict:
    """How a verification has ended: `error` says why it was not passed."""

    backup_id: str
    error: str | None


class VerificationActivities:
    """Verifies backups of one tenant."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @step
    async def verify_backup(self, verification: Verification) -> str | None:
        """Verify a backup; returns why it is not what it should be, or None if it is.

        It is restored to a private database, which gets the rights of roles, is compared with what was
        counted when the backup was made, and is dropped. An encrypted backup is only read, and its SHA-256
        compared: no key to decrypt it is here.
        """
        following = Following()
        backup = await self._tenant.backups.begin_verification(UUID(verification.backup_id))
        if backup is None:
            return None
        async with heartbeats(following.details):
            try:
                await known_store(self._tenant)
                return await self._examine(backup, following)
            except (OtherStoreError, StoreRefusedError) as fault:
                # No verdict: the known store may come back, and credentials may be given again.
                raise BackupFaultError(fault.reason, outage=True) from None

    @step
    async def verify_final_backup(self, job: InstanceJob) -> None:
        """Verify, in the same way, a backup that a purge has made, unless that was done; record the verdict.

        `verify_backup` may verify the same one at the same time: each has a database of its own.
        """
        following = Following()
        backup = await self._tenant.backups.final_of(job)
        if backup is None or proven_state(backup) is not None:
            return
        async with heartbeats(following.details):
            await known_store(self._tenant)  # that another one lacks it is no verdict
            async with ends_wait(self._tenant.jobs, job, following.moved):
                try:
                    error = await self._examine(backup, following, backup.id)
                except BackupFaultError as fault:
                    if not fault.is_verdict:
                        raise
                    error = fault.reason
        await self._tenant.backups.finish_proof(backup, error)
        if error is not None:
            raise BackupFaultError(
                f"The backup {backup.id} is not what the database holds. {error} Nothing was dropped."
                " Retry: another one is made."
            )

    async def _examine(self, backup: Backup, following: Following, subject: UUID | None = None) -> str | None:
        """Why a stored backup is not what it should be; None if it is.

        The database that it is restored to is named after `subject`, or else after the stored backup.
        """
        store = await open_store(self._tenant.settings)
        manifest = await load_recorded(store, self._tenant.name, backup)
        if manifest.encrypted:
            done, total = 0, max(1, manifest.size_bytes)
            async for chunk in read_dump(store, manifest):
                done += len(chunk)
                following.report(Progress(done, min(100, 100 * done // total)))
            return None
        with following.monitor() as monitor:
            return await self._differences(store, manifest, monitor, subject or manifest.backup_id)

    async def _differences(
        self, store: BackupStore, manifest: Manifest, monitor: Monitor, subject: UUID
    ) -> str | None:
        server = self._tenant.server
        installation = await self._tenant.jobs.installation.require_confirmed()
        with translate_database_faults():
            async with server.session() as session:
                await self._tenant.installation.require_confirmed(session)
        failures = 0
        while True:
            try:
                return await self._compared(store, manifest, monitor, (installation.id, subject))
            except UnsuitableProgramError as unsuitable:  # another worker may have the right one
                raise BackupFaultError(unsuitable.reason, outage=True) from None
            except ProgramFailedError as fault:
                failures += 1
                if failures == _RESTORES:
                    raise BackupFaultError(fault.reason) from None

    async def _compared(
        self, store: BackupStore, manifest: Manifest, monitor: Monitor, scratch: tuple[str, UUID]
    ) -> str | None:
        server, locale = self._tenant.server, locale_of(manifest)
        with translate_database_faults():
            async with scratch_database(server, *scratch, locale) as name:
                database = Database(server, name)
                await restore(store, manifest, database, monitor)
                found = await verify(database, manifest.figures)
                refused = await self._refused_rights(database, manifest)
        return " ".join([*refused, *found][:_TOLD_AT_MOST]) or None

    async def _refused_rights(self, database: Database, manifest: Manifest) -> list[str]:
        """Why a restore would not give the rights that the manifest has; none if it gives them."""
        if not await has_own_rights(self._tenant, manifest):
            return [
                "This service has not written the rights of roles in its manifest: no restore gives them."
            ]
        try:
            async with database.server.connected(database.name) as inside:
                await give_rights(inside, await rights_of(self._tenant, manifest))
        except DatabaseFaultError as fault:
            if fault.retryable:
                raise
            return [f"The rights of roles in it cannot be given. {fault.reason}"]
        return []
