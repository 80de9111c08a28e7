"""Small objects that a backup store has beside the backups; each function and method asks the store.

* Ids: another store may be at the same address, such as the folder below a mount point. A store has one
  object for each id by which a registry knows it: registries that begin to use it at once need not agree.
* Claims of registries to clean it, `_store/<tenant>/<installation>/…`, which are numbered. A copy of a
  registry has the same installation, but not the later claims of the original.
"""

from dataclasses import dataclass
from uuid import UUID, uuid4

from ods.backups.errors import BackupFaultError
from ods.backups.layout import IDENTITIES, claim_at, claim_of, claims_of, identity_at, identity_of
from ods.backups.storage import BackupStore
from ods.registry.backups.stores import StoreClaim

_CONTENT = b"A registry knows this store of backups by the name of this file. Keep it with the backups.\n"
WAY_OUT = (
    "If it is a folder, mount its disk. If this store is to be used from now on: `ods recover --apply"
    " --accept-store`."
)
SHARED_WAY_OUT = (
    "If this registry is the copy, make it an installation of its own: `ods recover --apply"
    " --as-new-installation`. Otherwise stop the copy, if there is one; then let this registry go on: `ods"
    " recover --apply --accept-store`."
)


class OtherStoreError(BackupFaultError):
    """What is at the URL is not the store that was there before."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} {WAY_OUT}")
        self.what = what


class SharedStoreError(BackupFaultError):
    """Another registry of this installation cleans the store, or has done so."""

    def __init__(self, location: str) -> None:
        self.what = (
            f"{location} is used by another registry of this installation as well: there is a copy of this"
            " one, or this one was restored to an earlier state. Nothing is deleted there, or recorded from"
            " there, until the operator says which one goes on."
        )
        super().__init__(f"{self.what} {SHARED_WAY_OUT}")


async def identify(store: BackupStore) -> UUID:
    """An id that the store has; it gets one if it has none."""
    found = [identity_at(one.path) for one in await store.list_objects(IDENTITIES)]
    known = [identity for identity in found if identity is not None]
    return min(known) if known else await give_identity(store)


async def give_identity(store: BackupStore) -> UUID:
    """Give the store another id, beside those that it has; returns it."""
    identity = uuid4()
    await store.write(identity_of(identity), _CONTENT)
    return identity


async def has_identity(store: BackupStore, identity: UUID) -> bool:
    """Whether the store is one that has this id."""
    return await store.read(identity_of(identity)) is not None


@dataclass(frozen=True)
class StoreClaims:
    """The claims that the registries of one tenant and installation have on a store."""

    store: BackupStore
    tenant: str
    installation: UUID

    async def found(self) -> list[StoreClaim]:
        """Those that the store has."""
        folder = claims_of(self.tenant, self.installation)
        found = [claim_at(folder, one.path) for one in await self.store.list_objects(folder)]
        return [StoreClaim(*claim) for claim in found if claim is not None]

    async def write(self, claim: StoreClaim) -> None:
        """Write a claim: an object of no bytes, for which a full store has room."""
        await self.store.write(self._path(claim), b"")

    async def remove(self, claim: StoreClaim) -> None:
        """Remove a claim."""
        await self.store.delete(self._path(claim))

    def _path(self, claim: StoreClaim) -> str:
        return claim_of(claims_of(self.tenant, self.installation), claim.number, claim.id)
