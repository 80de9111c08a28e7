"""By what a store is told from another one at the same address, such as the folder below a mount point.

A store has a small object for each id by which a registry knows it: registries that begin to use it at the
same time need not agree on one.
"""

from uuid import UUID, uuid4

from ods.backups.layout import IDENTITIES, identity_at, identity_of
from ods.backups.storage import BackupStore

_CONTENT = b"A registry knows this store of backups by the name of this file. Keep it with the backups.\n"


async def identify(store: BackupStore) -> UUID:
    """An id that the store has; it gets one if it has none.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    found = [identity_at(one.path) for one in await store.list_objects(IDENTITIES)]
    known = [identity for identity in found if identity is not None]
    return min(known) if known else await give_identity(store)


async def give_identity(store: BackupStore) -> UUID:
    """Give the store another id, beside those that it has; returns it.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    identity = uuid4()
    await store.write(identity_of(identity), _CONTENT)
    return identity


async def has_identity(store: BackupStore, identity: UUID) -> bool:
    """Whether the store is one that has this id.

    Raises:
        BackupFaultError: the store is away or refuses.
    """
    return await store.read(identity_of(identity)) is not None
