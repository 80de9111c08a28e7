"""What the reconcile pass does about backups: what is left is removed, what waits is started."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from temporalio import activity

from activities.errors import as_application_error
from activities.heartbeats import heartbeats
from backups.errors import BackupFaultError
from backups.manifest import BackupKey
from backups.storage import BackupStore
from backups.stored_backups import delete_backup, list_backups, load_if_readable, remove_unfinished
from databases.scratch import remove_scratch
from tenants.backup_store import open_store, remove_stored
from tenants.drift import Drift, is_suspect
from tenants.tenant import Tenant

_UNFINISHED_FOR = timedelta(minutes=30)
_EXPIRED_A_PASS = 100
"""Backups that one pass deletes: a mistake in a setting is noticed before all are gone."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleaningReport:
    """What was done about backups.

    Attributes:
        removed: backups of which something was removed from the store.
        dropped: databases that verifications had left.
        started: verifications that had not been started.
        expired: scheduled backups that are deleted because their time is over.
        obstacle: why the store could not be cleaned.
    """

    removed: int = 0
    dropped: int = 0
    started: int = 0
    obstacle: str | None = None
    expired: int = 0


class BackupCleaning:
    """Removes what is left of backups of one tenant.

    Args:
        tenant: the tenant.
        start: starts the verification of a backup.
        detect: finds where registry and server contradict each other.
    """

    def __init__(
        self,
        tenant: Tenant,
        start: Callable[[UUID], Awaitable[None]],
        detect: Callable[[], Awaitable[list[Drift]]],
    ) -> None:
        self._tenant = tenant
        self._start = start
        self._detect = detect

    @activity.defn
    async def clean_backups(self) -> CleaningReport:
        """Remove what writers that died have left, and what is deleted or has expired.

        Verifications that wait are started.

        A whole backup is removed only if the registry knows it under the instance's mark, and that it is
        deleted, that another try has made it, or that its job has failed. What the registry does not know
        is left: it may have been restored to an earlier state.

        Raises:
            ApplicationError: of type `Outage`, or of the type of the fault.
        """
        if self._tenant.settings.backup_url is None:
            return CleaningReport()
        with as_application_error():
            async with heartbeats():
                dropped = await self._drop_scratch()
                waiting = await self._tenant.backups.waiting_verifications()
                for backup in waiting:
                    await self._start(backup.id)
                expired = await self._delete_expired()
                try:
                    removed = await self._clean(open_store(self._tenant.settings))
                except BackupFaultError as fault:
                    return CleaningReport(0, dropped, len(waiting), fault.reason, expired)
                return CleaningReport(removed, dropped, len(waiting), None, expired)

    async def _delete_expired(self) -> int:
        """Delete up to `_EXPIRED_A_PASS` scheduled backups whose time is over, the oldest first.

        None while the registry may be of yesterday, or a copy, as with purges.
        """
        expiry = self._tenant.backup_expiry
        await expiry.compute()
        due = await expiry.due(_EXPIRED_A_PASS)
        if due and (suspicion := is_suspect(await self._detect())) is not None:
            _logger.warning("Backups have expired, but none is deleted: %s", suspicion.explanation)
            return 0
        return sum([await expiry.delete(backup.id) for backup in due])

    async def _drop_scratch(self) -> int:
        installation = await self._tenant.jobs.installation.require_confirmed()
        async with self._tenant.server.session() as session:
            await self._tenant.installation.require_confirmed(session)
            return len(await remove_scratch(session, installation.id))

    async def _clean(self, store: BackupStore) -> int:
        removed = len(await remove_unfinished(store, _UNFINISHED_FOR))
        for backup in await self._tenant.backups.deleted():
            await remove_stored(store, self._tenant, backup)
            await self._tenant.backups.forget(backup)
            removed += 1
        for key in await list_backups(store):
            if key.tenant == self._tenant.name and await self._is_superseded(store, key):
                await delete_backup(store, key)
                removed += 1
        return removed

    async def _is_superseded(self, store: BackupStore, key: BackupKey) -> bool:
        """Whether the registry knows that what is stored is none of its backups."""
        if await self._tenant.backups.knows(key.backup_id):
            return False
        manifest = await load_if_readable(store, key)
        made_for = None if manifest is None else manifest.details.get("backupId")
        if manifest is None or not isinstance(made_for, str):
            return False
        own = UUID((await self._tenant.jobs.installation.require_confirmed()).id)
        return await self._tenant.backups.superseded(
            UUID(made_for), manifest.mark, own, key.backup_id, manifest.finished_at
        )
