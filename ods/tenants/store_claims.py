"""Whether this registry alone cleans a store of backups, or a copy of it does so as well.

A physical copy of registry and server has all that the original has, the ids of the stores too, and nothing
on its server tells it from the original after a failover. Both would delete what has expired by their own
rows, and record the backups of the other as their own. So each pass replaces its claim in the store by the
next one. Of two registries, the second finds a claim that it has not made, and so does one that was restored
to an earlier state.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from ods.backups.errors import BackupFaultError, StoreFullError
from ods.backups.storage import BackupStore
from ods.backups.store_claims import StoreClaims
from ods.registry.backups.stores import BackupStores, ClaimState, StoreClaim

SHARED_WAY_OUT = (
    "If this registry is the copy, make it an installation of its own: `ods installation new`. Otherwise stop"
    " the copy, if there is one; then let this registry go on: `ods installation accept-store`."
)

_logger = logging.getLogger(__name__)


class SharedStoreError(BackupFaultError):
    """Another registry of this installation cleans the store, or has done so.

    Attributes:
        what: what is wrong, without what to do about it.
    """

    def __init__(self, location: str) -> None:
        self.what = store_is_shared(location)
        super().__init__(f"{self.what} {SHARED_WAY_OUT}")


def store_is_shared(location: str) -> str:
    """What is wrong, in words."""
    return (
        f"{location} is used by another registry of this installation as well: there is a copy of this one,"
        " or this one was restored to an earlier state. Nothing is deleted there, or recorded from there,"
        " until the operator says which one goes on."
    )


async def require_unshared(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Check that no other registry of this installation has claimed the store.

    Raises:
        SharedStoreError: one has.
        BackupFaultError: the store is away or refuses.
    """
    if (await _inspect(store, stores, tenant)).others:
        raise SharedStoreError(store.location())


async def claim_store(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Claim the store for this registry, before anything is deleted from it or recorded from it.

    Safe to repeat, wherever it ends: the registry knows each claim before the store has it. Of two registries
    that claim at once, the one that writes last finds the claim of the other when it looks again.

    Raises:
        SharedStoreError: another registry of this installation has claimed it as well.
        BackupFaultError: the store is away or refuses.
    """
    claim = None
    while claim is None:  # until no other worker of this registry is sooner
        seen = await _require_unshared(store, stores, tenant)
        claim = await stores.claim(seen.state, seen.state.number + 1)
    try:
        await seen.claims.write(claim)
    except StoreFullError as fault:  # deleting makes room
        _logger.warning("The store is cleaned without a new claim: %s", fault.reason)
    seen = await _require_unshared(store, stores, tenant)
    if claim in seen.found:
        await seen.remove_before(claim)
    await stores.record_conflict(None)


async def take_over(store: BackupStore, stores: BackupStores, tenant: str) -> None:
    """Claim the store for this registry, whichever other one has claimed it.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    claim = None
    while claim is None:
        seen = await _inspect(store, stores, tenant)
        claim = await stores.claim(
            seen.state, max([seen.state.number, *(it.number for it in seen.found)]) + 1
        )
    await seen.claims.write(claim)
    await seen.remove_before(claim)
    await stores.record_conflict(None)


@dataclass(frozen=True)
class _Inspected:
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


async def _inspect(store: BackupStore, stores: BackupStores, tenant: str) -> _Inspected:
    installation = (await stores.claims()).installation
    claims = StoreClaims(store, tenant, installation)
    found = await claims.found()
    # With the installation whose claims these are: if it is another one by now, none can be made.
    return _Inspected(claims, found, replace(await stores.claims(), installation=installation))


async def _require_unshared(store: BackupStore, stores: BackupStores, tenant: str) -> _Inspected:
    """Look; if another registry has claimed the store, it will not go on either.

    It finds a claim with the number of its own, which it has not made. Which of the two is the copy is for
    the operator to say, and the copy may have been sooner.

    Raises:
        SharedStoreError: another registry of this installation has claimed it as well.
        BackupFaultError: the store is away or refuses.
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
