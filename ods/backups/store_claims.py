"""Claims of registries to clean a store, each of which is a small object: `_store/<tenant>/<installation>/…`.

They are numbered. A copy of a registry has the same installation, but not the later claims of the original.
"""

from dataclasses import dataclass
from uuid import UUID

from ods.backups.layout import claim_at, claim_of, claims_of
from ods.backups.storage import BackupStore
from ods.registry.backups.stores import StoreClaim


@dataclass(frozen=True)
class StoreClaims:
    """The claims that the registries of one tenant and installation have on a store.

    All methods raise `BackupFaultError` if the store is away or refuses.
    """

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
