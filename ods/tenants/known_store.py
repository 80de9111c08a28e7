"""The store of a tenant's backups: whether it is the known one, and whether this registry alone cleans it.

A registry knows a store by an id in it. A folder whose disk is not mounted exists as well, on another disk:
what is stored there is gone once the disk is mounted, and what was dropped because of that backup cannot come
back.

A physical copy of registry and server has all that the original has, also the ids of stores. Both would
delete what has expired by their own rows, and record the other's backups as their own. So each pass replaces
its claim in the store by the next one. Of two registries, the second finds a claim that it has not made; so
does one that was restored to an earlier state. A store need only list what was written: not every store
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

    So an original finds the claim of its copy before it takes the backup for its own, even if the copy is
    stopped before its first pass. Backups are made also where another registry has claimed the store.
    """
    store = await known_store(tenant)
    with suppress(SharedStoreError):
        await claim_store(store, BackupStores(tenant.engine), tenant.name)
    return store


async def unshared_store(tenant: Tenant) -> BackupStore:
    """The known store, if something may be deleted there, or recorded that is found there."""
    store = await known_store(tenant)
    await require_unshared(store, BackupStores(tenant.engine), tenant.name)
    return store


async def require_backups(tenant: Tenant) -> None:
    """Check, before a job is requested that makes a backup, that one can be made here.

    If the store does not answer soon, the job waits for it.
    """
    try:
        await known_store(tenant, _SOON)
    except BackupFaultError as fault:
        if not fault.outage:
            raise
    await require_programs(tenant.server)


async def require_final_backups(tenant: Tenant) -> None:
    """The same for a backup that is verified before its database is dropped: by a restore, unless encrypted.

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


async def store_question(tenant: Tenant) -> str | None:
    """What the operator must decide about the store before this registry goes on with it; None if nothing.

    Nothing is recorded. If the store is away, what the last pass has found counts.
    """
    stores = BackupStores(tenant.engine)
    if tenant.settings.backup_url is None:
        return None
    try:
        store = await open_store(tenant.settings, _SOON)
        await require_known(store, stores)
        await require_unshared(store, stores, tenant.name)
    except (OtherStoreError, SharedStoreError) as question:
        return question.reason
    except BackupFaultError:
        shared = await stores.conflict()
        return None if shared is None else SharedStoreError(shared).reason
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

    Another registry may have claimed it. The store gets a new id: one that it was copied from has the old
    one.
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
    that claim at once, the last to write finds the claim of the other when it looks again.
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
    """The claims of this installation in the store, and what its registry knew after they were read."""

    claims: StoreClaims
    found: list[StoreClaim]
    state: ClaimState

    @property
    def others(self) -> list[StoreClaim]:
        """The claims of another registry that are not earlier than the last own one."""
        return [one for one in self.found if self.state.lacks(one)]

    async def remove_before(self, claim: StoreClaim) -> None:
        """Remove the earlier claims, also those that a suspended worker has written late.

        They are over: one that cannot be removed does no harm.
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
    """Look at the claims; refuse, and have the other registry refuse as well, if one has claimed the store.

    The other one finds a claim with the number of its own that it has not made. The operator says which
    registry is the copy; the copy may have claimed the store first.
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
