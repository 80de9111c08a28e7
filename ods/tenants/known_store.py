"""The store of a tenant's backups, if it is the one that the registry knows at its URL.

A folder whose disk is not mounted is there as well, on another disk. What is stored there is gone as soon as
the disk is mounted, and what was dropped because of that backup cannot come back.
"""

from contextlib import suppress
from uuid import UUID

from ods.backups.errors import BackupFaultError
from ods.backups.readiness import require_programs, require_restores
from ods.backups.storage import BackupStore, StoreTimeouts
from ods.backups.store_identity import give_identity, has_identity, identify
from ods.registry.backups.stores import BackupStores
from ods.tenants.backup_store import open_store
from ods.tenants.store_claims import SharedStoreError, claim_store, require_unshared, take_over
from ods.tenants.tenant import Tenant

_SOON = StoreTimeouts(answer=5, retries=5)
"""For how long a client that requests something waits for the store."""
WAY_OUT = (
    "If it is a folder, mount its disk. If this store is to be used from now on: `ods installation"
    " accept-store`."
)


class OtherStoreError(BackupFaultError):
    """What is at the URL is not the store that was there before.

    Attributes:
        what: what is wrong, without what to do about it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} {WAY_OUT}")
        self.what = what


async def known_store(tenant: Tenant, timeouts: StoreTimeouts | None = None) -> BackupStore:
    """The store, where backups may be made, deleted and relied upon; at its first use it gets known.

    Args:
        tenant: the tenant.
        timeouts: how long the store is waited for, if not as long as jobs wait.

    Raises:
        OtherStoreError: it is another one than before.
        BackupFaultError: none is configured; it is away or refuses.
    """
    store, stores = await open_store(tenant.settings, timeouts), BackupStores(tenant.engine)
    if await require_known(store, stores) is None:
        await _require_identity(store, await stores.record(store.location(), await identify(store)))
    return store


async def store_for_backup(tenant: Tenant) -> BackupStore:
    """The known store, which is about to get a backup, claimed for this registry.

    So the registry that this one is a copy of finds the claim before it takes the backup for its own, also if
    this one is stopped before its first pass. Backups are made where another registry has claimed the store.

    Raises:
        OtherStoreError: it is another one than before.
        BackupFaultError: none is configured; it is away or refuses.
    """
    store = await known_store(tenant)
    with suppress(SharedStoreError):
        await claim_store(store, BackupStores(tenant.engine), tenant.name)
    return store


async def unshared_store(tenant: Tenant) -> BackupStore:
    """The known store, where something may be deleted, or recorded that is found there.

    Raises:
        OtherStoreError: it is another one than before.
        SharedStoreError: another registry of this installation uses it as well.
        BackupFaultError: none is configured; it is away or refuses.
    """
    store = await known_store(tenant)
    await require_unshared(store, BackupStores(tenant.engine), tenant.name)
    return store


async def require_backups(tenant: Tenant) -> None:
    """Check, before a job is requested that makes a backup, that one can be made here.

    A store that does not answer, or not soon, is for the job to wait for.

    Raises:
        OtherStoreError: the store is another one than before.
        BackupFaultError: there is none, or it refuses; the client programs do not suit the server, or that
            is away.
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
        BackupFaultError: as `require_backups`.
    """
    if not tenant.settings.recipients:
        require_restores(tenant.server)
    await require_backups(tenant)


async def backup_obstacle(tenant: Tenant) -> str | None:
    """Why no final backup can be made here; None if one can.

    Raises:
        BackupFaultError: the server is away.
    """
    try:
        await require_final_backups(tenant)
    except BackupFaultError as fault:
        if fault.outage:
            raise
        return fault.reason
    return None


async def require_known(store: BackupStore, stores: BackupStores) -> UUID | None:
    """Check that the store is the one that was used at its URL; returns its id, None if none is known yet.

    Raises:
        OtherStoreError: it is another one.
        BackupFaultError: it is away or refuses.
    """
    known = await stores.known_at(store.location())
    if known is not None:
        await _require_identity(store, known)
    return known


async def accept_store(store: BackupStore, stores: BackupStores, tenant: str) -> UUID:
    """Let the registry know the store as it is now, and be the one that cleans it; returns its id.

    It gets another id than it has: a store that it was copied from has that one as well.

    Raises:
        BackupFaultError: it is away or refuses.
    """
    identity = await give_identity(store)
    await stores.replace(store.location(), identity)
    await take_over(store, stores, tenant)
    return identity


async def _require_identity(store: BackupStore, known: UUID) -> None:
    if not await has_identity(store, known):
        raise OtherStoreError(
            f"{store.location()} is not the store of backups that was used at this address: it does not have"
            f" the id {known}."
        )
