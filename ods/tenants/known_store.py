"""The store of a tenant's backups: whether it is the known one, and whether this registry alone cleans it.

A folder whose disk is not mounted is there as well, on another disk. What is stored there is gone as soon as
the disk is mounted, and what was dropped because of that backup cannot come back. So a registry knows a store
by an id that the store has.

A physical copy of registry and server has all that the original has, the ids of the stores too, and nothing
on its server tells it from the original after a failover. Both would delete what has expired by their own
rows, and record the backups of the other as their own. So each pass replaces its claim in the store by the
next one. Of two registries, the second finds a claim that it has not made, and so does one that was restored
to an earlier state. Claims need no more of a store than that it lists what was written: not every store
refuses the second of two conditional writes.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from ods.backups.errors import BackupFaultError, StoreFullError
from ods.backups.readiness import require_programs, require_restores
from ods.backups.storage import BackupStore, StoreTimeouts
from ods.backups.store_identity import (
    OtherStoreError,
    SharedStoreError,
    StoreClaims,
    give_identity,
    has_identity,
    identify,
)
from ods.registry.backups.stores import BackupStores, ClaimState, StoreClaim
from ods.tenants.backup_store import open_store
from ods.tenants.tenant import Tenant

_SOON = StoreTimeouts(answer=5, retries=5)
"""For how long a client that requests something waits for the store."""

_logger = logging.getLogger(__name__)


async def known_store(tenant: Tenant, timeouts: StoreTimeouts | None = None) -> BackupStore:
    """The store, where backups may be made, deleted and relied upon; at its first use it gets known."""
    store, stores = await open_store(tenant.settings, timeouts), BackupStores(tenant.engine)
    if await require_known(store, stores) is None:
        await _require_identity(store, await stores.record(store.location(), await identify(store)))
    return store


async def store_for_backup(tenant: Tenant) -> BackupStore:
    """The known store, which is about to get a backup, claimed for this registry.

    So the registry that this one is a copy of finds the claim before it takes the backup for its own, also if
    this one is stopped before its first pass. Backups are made where another registry has claimed the store.
    """
    store = await known_store(tenant)
    with suppress(SharedStoreError):
        await claim_store(store, BackupStores(tenant.engine), tenant.name)
    return store


async def unshared_store(tenant: Tenant) -> BackupStore:
    """The known store, where something may be deleted, or recorded that is found there."""
    store = await known_store(tenant)
    await require_unshared(store, BackupStores(tenant.engine), tenant.name)
    return store


async def require_backups(tenant: Tenant) -> None:
    """Check, before a job is requested that makes a backup, that one can be made here.

    A store that does not answer, or not soon, is for the job to wait for.
    """
    try:
        await known_store(tenant, _SOON)
    except BackupFaultError as fault:
        if not fault.outage:
            raise
    await require_programs(tenant.server)


async def require_final_backups(tenant: Tenant) -> None:
    """The same of a backup that is verified before its database is dropped: by a restore, unless encrypted.

    Raises:
        RestoreRefusedError: no login restores.
    """
    if not tenant.settings.recipients:
        require_restores(tenant.server)
    await require_backups(tenant)


async def backup_obstacle(tenant: Tenant) -> str | None:
    """Why no final backup can be made here; None if one can."""
    try:
        await require_final_backups(tenant)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return fault.reason
    return None


async def require_known(store: BackupStore, stores: BackupStores) -> UUID | None:
    """Check that the store is the one that was used at its URL; returns its id, None if none is known yet."""
    known = await stores.known_at(store.location())
    if known is not None:
        await _require_identity(store, known)
    return known


async def _require_identity(store: BackupStore, known: UUID) -> None:
    if not await has_identity(store, known):
        raise OtherStoreError(
            f"{store.location()} is not the store of backups that was used at this address: it does not have"
            f" the id {known}."
        )


async def accept_store(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Let the registry know the store as it is now, and be the one that cleans it from now on.

    Another registry may have claimed it. The store gets another id than it has: one that it was copied from
    has that one as well.
    """
    await stores.replace(store.location(), await give_identity(store))
    claim = None
    while claim is None:
        seen = await _inspect(store, stores, tenant)
        last = max([seen.state.number, *(it.number for it in seen.found)])
        claim = await stores.claim(seen.state, last + 1)
    await seen.claims.write(claim)
    await seen.remove_before(claim)
    await stores.record_conflict(None)


async def require_unshared(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Check that no other registry of this installation has claimed the store."""
    if (await _inspect(store, stores, tenant)).others:
        raise SharedStoreError(store.location())


async def claim_store(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Claim the store for this registry, before anything is deleted from it or recorded from it.

    Safe to repeat, wherever it ends: the registry knows each claim before the store has it. Of two registries
    that claim at once, the one that writes last finds the claim of the other when it looks again.
    """
    claim = None
    while claim is None:  # until this worker wins
        seen = await _require_alone(store, stores, tenant)
        claim = await stores.claim(seen.state, seen.state.number + 1)
    try:
        await seen.claims.write(claim)
    except StoreFullError as fault:  # deleting makes room
        _logger.warning("The store is cleaned without a new claim: %s", fault.reason)
    seen = await _require_alone(store, stores, tenant)
    if claim in seen.found:
        await seen.remove_before(claim)
    await stores.record_conflict(None)


@dataclass(frozen=True)
class _Seen:
    """The claims of this installation that the store has, and what the registry knew afterwards.

    It knew each of its own by then, also one of another worker.
    """

    claims: StoreClaims
    found: list[StoreClaim]
    state: ClaimState

    @property
    def others(self) -> list[StoreClaim]:
        """The claims of another registry that are not earlier than the last own one."""
        return [one for one in self.found if self.state.lacks(one)]

    async def remove_before(self, claim: StoreClaim) -> None:
        """Remove the earlier ones, among them those that a suspended worker has written late.

        They are over, so that one which cannot be removed does not matter.
        """
        for one in self.found:
            if one.number < claim.number:
                try:
                    await self.claims.remove(one)
                except BackupFaultError as fault:
                    if fault.outage:
                        raise
                    _logger.warning("An earlier claim stays in the store: %s", fault.reason)
                    return


async def _inspect(store: BackupStore, stores: BackupStores, tenant: str) -> _Seen:
    installation = (await stores.claims()).installation
    claims = StoreClaims(store, tenant, installation)
    found = await claims.found()
    # With the installation whose claims these are: if it is another one by now, none can be made.
    return _Seen(claims, found, replace(await stores.claims(), installation=installation))


async def _require_alone(store: BackupStore, stores: BackupStores, tenant: str) -> _Seen:
    """Look; if another registry has claimed the store, it will not go on either.

    It finds a claim that has the number of its own, and was made by another registry. The operator says
    which of the two registries is the copy; the copy may have claimed the store first.
    """
    seen = await _inspect(store, stores, tenant)
    if not seen.others:
        return seen
    await stores.record_conflict(store.location())
    last = max(it.number for it in seen.found)
    if len([it for it in seen.found if it.number == last]) == 1:
        with suppress(StoreFullError):  # the next pass writes it
            await seen.claims.write(StoreClaim(last, uuid4()))
    raise SharedStoreError(store.location())
