"""What the reconcile pass does about backups: what is left is removed, what waits is started."""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import attrgetter
from uuid import UUID

from sqlalchemy import exc

from activities.backup_requests import lost_backup
from activities.errors import is_locked, step
from activities.following import heartbeats
from ods.backups.errors import BackupFaultError
from ods.backups.layout import folder_of
from ods.backups.manifest import BackupKey, Manifest
from ods.backups.storage import BackupStore
from ods.backups.stored_backups import has_dump, list_backups, load_if_readable, remove_unfinished
from ods.databases.errors import DatabaseFaultError
from ods.databases.scratch import find_scratch, remove_scratch
from ods.recovery.compare.findings import Drift, is_suspect
from ods.registry.backups.records import is_recorded_gone
from ods.registry.backups.rows import VERIFICATION_PASSED
from ods.registry.backups.stores import BackupStores
from ods.registry.storage.models import Backup
from ods.tenants.backup_store import find_elsewhere, key_of, load_whole, remove_stored
from ods.tenants.known_store import claim_store, known_store
from ods.tenants.tenant import Tenant

_UNFINISHED_FOR = timedelta(minutes=30)
_EXPIRED_A_PASS = 100
"""Backups that one pass deletes: a mistake in a setting is noticed before all are gone."""

_ELSEWHERE = (
    "%s backups %s, but are not in the store of ODS_BACKUP_URL, and stay. Their locations tell where they"
    " are: copy them into this store, or set ODS_BACKUP_URL to the earlier one."
)
_NAMED_AT_MOST = 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleaningReport:
    """What was done about backups: how many of them, and why not more."""

    removed: int = 0  # something of them was removed from the store
    dropped: int = 0  # databases that verifications had left
    started: int = 0  # verifications that had not been started
    obstacle: str | None = None  # why the store could not be cleaned
    expired: int = 0  # scheduled backups that are deleted because their time is over
    recorded: int = 0  # whole ones that the registry did not know: it was restored, or their jobs had failed
    missing: int = 0  # recorded, of this installation, and gone from the store
    left: str | None = None  # why something was left to the next pass
    elsewhere: int = 0  # recorded, of this installation, and in an earlier store, if they are anywhere
    unknown: int = 0  # whole ones in the store that are of no instance of the registry


class _Left:
    """What a pass cannot do: the next one does it, and everything else is done all the same."""

    def __init__(self) -> None:
        self.reason: str | None = None

    @contextmanager
    def unless_done(self, what: str) -> Iterator[None]:
        """Log why `what` is left to the next pass, if the body cannot do it."""
        try:
            yield
        except (BackupFaultError, DatabaseFaultError) as fault:
            if fault.outage:
                raise
            self._note(what, fault.reason)
        except exc.DBAPIError as error:
            if not is_locked(error):
                raise
            self._note(what, "Another session has locked its row in the registry.")

    def stored(self, key: BackupKey) -> AbstractContextManager[None]:
        """The same for what is stored under `key`."""
        return self.unless_done(f"The stored backup {key.backup_id}")

    def _note(self, what: str, reason: str) -> None:
        _logger.warning("%s is left to the next pass: %s", what, reason)
        self.reason = self.reason or reason


@dataclass(frozen=True)
class BackupCleaning:
    """Removes what is left of backups of one tenant."""

    tenant: Tenant
    start: Callable[[UUID], Awaitable[None]]
    detect: Callable[[], Awaitable[list[Drift]]]

    @step
    async def clean_backups(self) -> CleaningReport:
        """Remove what writers that died have left, and what is deleted or has expired; compare the rest.

        A whole backup is removed only if it was deleted, or has expired. A backup that the registry does not
        know is recorded if it is of one of its instances: the registry may have been restored to an earlier
        state, or the job has failed. A recorded backup that is gone is recorded as not whole; one that is
        back is verified anew. Verifications that wait are started.

        While another registry of this installation uses the store as well, nothing is removed from it, and
        nothing that is found there is recorded.
        """
        stores = BackupStores(self.tenant.engine)
        if self.tenant.settings.backup_url is None:
            await stores.record_conflict(None)
            return CleaningReport()
        async with heartbeats():
            left = _Left()
            dropped = await self._drop_scratch(left)
            waiting = await self.tenant.backups.waiting_verifications()
            for backup in waiting:
                await self.start(backup.id)
            report = CleaningReport(dropped=dropped, started=len(waiting))
            try:
                store, is_alone = await known_store(self.tenant), False
                with left.unless_done("What is deleted, has expired or was lost"):
                    await claim_store(store, stores, self.tenant.name)
                    is_alone = True
                if is_alone:
                    report = replace(report, expired=await self._delete_expired(store))
                    # Deleted backups first: a full store may have no room for the object that tells its time.
                    removed = await self._remove_deleted(store, left)
                    with left.unless_done("What unfinished backups have left"):
                        kept, told = self._is_kept, left.stored
                        removed += len(await remove_unfinished(store, _UNFINISHED_FOR, kept, told))
                    report = replace(report, removed=removed)
                report = await self._compare(store, report, left, is_alone=is_alone)
            except BackupFaultError as fault:
                report = replace(report, obstacle=fault.reason)
            return replace(report, left=left.reason)

    async def _delete_expired(self, store: BackupStore) -> int:
        """Delete up to `_EXPIRED_A_PASS` scheduled backups whose time is over, the oldest first.

        As with purges, none is deleted while the registry may be of yesterday, or a copy. Each needs a later
        one that is whole in the store, unless the instance has long been gone.
        """
        expiry, expired, stay = self.tenant.backup_expiry, 0, 0
        unwritten = await expiry.compute()
        due = [one for one in await expiry.due() if one.backup.id not in unwritten]
        if due and (suspicion := is_suspect(await self.detect())) is not None:
            _logger.warning("Backups have expired, but none is deleted: %s", suspicion.explanation)
            return 0
        known: dict[UUID, bool] = {}
        elsewhere = await find_elsewhere(store, self.tenant, [one.backup for one in due])
        if elsewhere:
            _logger.warning(_ELSEWHERE, len(elsewhere), "have expired")
        for one in due:
            if expired == _EXPIRED_A_PASS:
                break
            if one.backup.id in elsewhere:
                continue
            survivor = await self._survivor(store, one.backup, known) if one.needs_survivor else None
            if one.needs_survivor and survivor is None:
                stay += 1
            else:
                expired += await expiry.delete(one.backup.id, survivor)
        if stay:
            _logger.warning("%s backups that have expired stay: of later ones, none is in the store", stay)
        return expired

    async def _survivor(self, store: BackupStore, backup: Backup, known: dict[UUID, bool]) -> UUID | None:
        """The latest backup that is whole in the store and lets this one go; None if there is none."""
        for survivor in await self.tenant.backup_expiry.survivors(backup.id):
            if survivor.id not in known:
                stored = await load_whole(store, self.tenant.name, survivor)
                known[survivor.id] = stored is not None
            if known[survivor.id]:
                return survivor.id
        return None

    async def _drop_scratch(self, left: _Left) -> int:
        installation = await self.tenant.jobs.installation.require_confirmed()
        async with self.tenant.server.session() as session:
            await self.tenant.installation.require_confirmed(session)
            dropped = 0
            for name in await find_scratch(session, installation.id):
                with left.unless_done(f"The database '{name}'"):
                    dropped += await remove_scratch(session, name)
            return dropped

    async def _remove_deleted(self, store: BackupStore, left: _Left) -> int:
        removed = 0
        deleted = await self.tenant.backups.deleted()
        elsewhere = await find_elsewhere(store, self.tenant, deleted)
        if elsewhere:
            _logger.warning(_ELSEWHERE, len(elsewhere), "are deleted")
        for backup in deleted:
            if backup.id in elsewhere:
                continue
            with left.unless_done(f"The deleted backup {backup.id}"):
                await remove_stored(store, self.tenant, backup)
                await self.tenant.backups.forget(backup)
                removed += 1
        return removed

    async def _compare(
        self, store: BackupStore, report: CleaningReport, left: _Left, *, is_alone: bool
    ) -> CleaningReport:
        """Compare the store with the registry; returns the report with what was found."""
        own = UUID((await self.tenant.jobs.installation.require_confirmed()).id)
        # Before the store is listed: what is stored meanwhile is not missing.
        known = await self.tenant.backups.made_by(own)
        keys = await list_backups(store)
        recorded, unknown = await self._take_in(store, keys, own, left) if is_alone else (0, 0)
        missing = await self._record_missing(store, known, keys)
        elsewhere = await self._follow_moved(store, known, keys)
        await self._verify_those_back(store, known, keys)
        return replace(report, recorded=recorded, missing=missing, elsewhere=elsewhere, unknown=unknown)

    async def _take_in(
        self, store: BackupStore, keys: Iterable[BackupKey], own: UUID, left: _Left
    ) -> tuple[int, int]:
        """Record whole backups that the registry does not know; returns how many it took, and refused.

        It refuses those that are of none of its instances. The newest comes first, whose contexts, labels and
        description an instance gets that a recovery has recorded.
        """
        recorded, unknown, found = 0, list[str](), list[Manifest]()
        for key in keys:
            if key.tenant != self.tenant.name or await self.tenant.backups.knows(key.backup_id):
                continue
            if (made := await load_if_readable(store, key)) is not None:
                found.append(made)
        for made in sorted(found, key=attrgetter("created_at"), reverse=True):
            if (lost := lost_backup(made, store, own)) is None:
                continue
            if not await has_dump(store, made):
                _logger.warning("The dump of the backup %s is gone. Its manifest stays.", made.backup_id)
                continue
            with left.stored(made.key):
                if await self.tenant.backups.record_lost(lost, self.tenant.settings.backup_verify):
                    _logger.warning("The registry did not know the backup %s: it is recorded now.", lost.id)
                    recorded += 1
                elif not await self.tenant.queries.known_marks([str(lost.mark)]):
                    unknown.append(lost.stored.location)
        if unknown:
            _logger.warning(
                "%s whole backups in the store are of no instance that the registry knows, such as %s",
                *(len(unknown), ", ".join(unknown[:_NAMED_AT_MOST])),
            )
        return recorded, len(unknown)

    async def _record_missing(
        self, store: BackupStore, known: Iterable[Backup], stored: Mapping[BackupKey, int]
    ) -> int:
        """Record and count known backups that are gone from this store; not those of an earlier store."""
        missing, gone = 0, []
        for backup in known:
            key = key_of(self.tenant.name, backup)
            is_here = stored.get(key) == backup.size_bytes
            if is_here or backup.location != store.location(folder_of(key)):
                continue
            if backup.verification not in {None, VERIFICATION_PASSED}:
                missing += 1  # it is known not to be whole, or will be
            elif await load_whole(store, self.tenant.name, backup) is None:
                gone.append(backup)
        if gone:
            await known_store(self.tenant)  # a disk that was unmounted meanwhile lacks all
        missing += sum([await self.tenant.backups.record_gone(backup) for backup in gone])
        if missing:
            _logger.warning("%s backups that the registry has are gone from the store", missing)
        return missing

    async def _follow_moved(
        self, store: BackupStore, known: Iterable[Backup], stored: Collection[BackupKey]
    ) -> int:
        """Record where backups of an earlier store are in this one; returns how many are not here."""
        elsewhere = 0
        for backup in known:
            key = key_of(self.tenant.name, backup)
            if backup.location == (here := store.location(folder_of(key))):
                continue
            if key not in stored or await load_whole(store, self.tenant.name, backup) is None:
                elsewhere += 1
            elif not is_recorded_gone(backup):  # or else it is verified anew
                await self.tenant.backups.record_moved(backup, here)
        if elsewhere:
            await known_store(self.tenant)  # as above
            _logger.warning(_ELSEWHERE, elsewhere, "are recorded")
        return elsewhere

    async def _verify_those_back(
        self, store: BackupStore, known: Iterable[Backup], stored: Collection[BackupKey]
    ) -> None:
        """Have backups verified that were gone and are whole again, as when a folder was moved."""
        for backup in known:
            if not is_recorded_gone(backup) or key_of(self.tenant.name, backup) not in stored:
                continue
            if await load_whole(store, self.tenant.name, backup) is None:
                continue
            here = store.location(folder_of(key_of(self.tenant.name, backup)))
            if await self.tenant.backups.record_back(backup, here):
                _logger.warning("The backup %s, which was gone, is in the store again.", backup.id)
                await self.start(backup.id)

    async def _is_kept(self, key: BackupKey) -> bool:
        """Whether a dump without a manifest stays: if this registry knows it, or another tenant's may.

        Its manifest was lost then, and it can be restored by hand.
        """
        if key.tenant != self.tenant.name:
            return True
        if not await self.tenant.backups.knows(key.backup_id):
            return False
        _logger.warning("The manifest of the stored backup %s is gone. Its dump stays.", key.backup_id)
        return True
